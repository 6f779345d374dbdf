"""Fast shards of ``fold_final``: an accumulator per key, put out at the end of input.

``reduce_final``, ``count_final``, ``max_final`` and ``min_final`` are built on it.

Invariant: per key, the user's functions get the calls that Bytewax's own logic would make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Operator

from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.state_shard import StateShard
from bytewax_redis_state.dataflow.shards.routing import Pairs, pair_router
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["FoldShard", "ReduceShard", "recognise_fold"]

_NEW = object()
_fold_final: Any = op.fold_final._op_cls  # type: ignore[attr-defined]
_reduce_final: Any = op.reduce_final._op_cls  # type: ignore[attr-defined]
_stateful: Any = op.stateful._op_cls  # type: ignore[attr-defined]


class FoldShard(StateShard):
    """Run the user's fold function of ``fold_final``, which Bytewax calls ``folder``.

    On resume each key's accumulator is as of the last committed epoch. At the end of input all
    accumulators are put out and deleted.
    """

    def configure(self, step: Any) -> None:
        """Read the user's functions."""
        self._builder: Callable[[], Any] = step.builder
        self._fold: Callable[[Any, Any], Any] = step.folder

    def load(self, states: Mapping[str, bytes]) -> None:
        """Decode restored keys; as in Bytewax, ``None`` counts as no accumulator.

        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder fails.
        """
        for key, state in self._codec.decode_all(states):
            self._held[key] = self._first(key) if state is None else state

    def _first(self, key: str) -> Any:
        try:
            return self._builder()
        except Exception as error:
            raise self.failure("builder", key) from error

    def process(self, pairs: Pairs, items: Items) -> None:
        """Fold each value in."""
        states, fold, key = self._held, self._fold, ""
        doing = "StatefulBatchLogic.on_batch"
        try:
            for key, value in pairs:
                state = states.get(key, _NEW)
                if state is _NEW:
                    doing = "builder"
                    state = self._builder()
                    doing = "StatefulBatchLogic.on_batch"
                states[key] = fold(state, value)
        except Exception as error:
            raise self.failure(doing, key) from error

    def ended(self) -> Items:
        """Put the accumulators out, sorted by key as in the engine, and delete them."""
        items = sorted(self._held.items(), key=lambda item: item[0])
        self._dirty.update(self._held)
        for key in [*self._held]:
            self.discard(key)
        return items


class ReduceShard(FoldShard):
    """Run the user's reducer of ``reduce_final``; otherwise as :class:`FoldShard`."""

    def configure(self, step: Any) -> None:
        """Read the user's function."""
        self._reducer: Callable[[Any, Any], Any] = step.reducer

    def _first(self, key: str) -> Any:
        return None

    def process(self, pairs: Pairs, items: Items) -> None:
        """Fold each value in."""
        states, reducer, key = self._held, self._reducer, ""
        get = states.get
        try:
            for key, value in pairs:
                state = get(key)
                # As in Bytewax, None counts as no accumulator.
                states[key] = value if state is None else reducer(state, value)
        except Exception as error:
            raise self.failure("StatefulBatchLogic.on_batch", key) from error


def recognise_fold(path: Sequence[Operator]) -> FastPath | None:
    """Find the functions of ``fold_final`` or ``reduce_final`` around a core step."""
    kinds = [type(step) for step in path[:-1]]
    if kinds[-3:] == [_reduce_final, _fold_final, _stateful]:
        return FastPath(ReduceShard, path[-4], pair_router)
    if kinds[-2:] == [_fold_final, _stateful]:
        return FastPath(FoldShard, path[-3], pair_router)
    return None
