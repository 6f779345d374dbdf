"""Fast shards of ``stateful_map`` and ``stateful_flat_map``: a state per key and one function.

Invariant: per key, the user's mapper gets the calls that Bytewax's own logic would make, and a
return value that Bytewax refuses is refused in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Operator, f_repr

from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.state_shard import StateShard
from bytewax_redis_state.dataflow.shards.routing import Pairs, pair_router
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["FlatMapShard", "MapShard", "recognise_map"]

_DOING = "StatefulBatchLogic.on_batch"
_stateful_map: Any = op.stateful_map._op_cls  # type: ignore[attr-defined]
_stateful_flat_map: Any = op.stateful_flat_map._op_cls  # type: ignore[attr-defined]
_stateful: Any = op.stateful._op_cls  # type: ignore[attr-defined]


class FlatMapShard(StateShard):
    """Run the user's mapper of ``stateful_flat_map``.

    On resume each key's state is as of the last committed epoch. It is decoded when the key's first
    item comes.
    """

    emits = "emit_values"

    def configure(self, step: Any) -> None:
        """Read the mapper, and the step's ID for its errors."""
        self._mapper: Callable[[Any, Any], Any] = step.mapper
        self._operator_id: str = step.step_id

    def load(self, states: Mapping[str, bytes]) -> None:
        """Keep restored keys encoded until their first item comes."""
        # A mapper is not called without an item, so a restore is one dictionary update a shard. The
        # check sums were verified before the engine started: it panics on errors while it loads.
        self._asleep.update(states)

    def process(self, pairs: Pairs, items: Items) -> None:
        """Run the mapper on each value."""
        states, mapper, key = self._held, self._mapper, ""
        try:
            for key, value in pairs:
                result = mapper(states.get(key), value)
                try:
                    state, emit = result
                except TypeError as error:
                    raise self._refusal(result) from error
                # list() takes and refuses what Bytewax's extend() does.
                items += [(key, each) for each in (emit if type(emit) is list else list(emit))]
                if state is None:
                    self._end(key)
                else:
                    states[key] = state
        except Exception as error:
            raise self.failure(_DOING, key) from error

    def _end(self, key: str) -> None:
        if self._held.pop(key, None) is not None:
            self._deadlines.drop(key)

    def _refusal(self, result: object) -> TypeError:
        return TypeError(
            f"return value of `mapper` {f_repr(self._mapper)} in step {self._operator_id!r} "
            f"must be a 2-tuple of `(updated_state, {self.emits})`; got a {type(result)!r} instead"
        )


class MapShard(FlatMapShard):
    """Run the user's mapper of ``stateful_map``; otherwise as :class:`FlatMapShard`."""

    emits = "emit_value"

    def process(self, pairs: Pairs, items: Items) -> None:
        """Run the mapper on each value."""
        states, mapper, key = self._held, self._mapper, ""
        get, append = states.get, items.append
        try:
            for key, value in pairs:
                result = mapper(get(key), value)
                try:
                    state, emit = result
                except TypeError as error:
                    raise self._refusal(result) from error
                append((key, emit))
                if state is None:
                    self._end(key)
                else:
                    states[key] = state
        except Exception as error:
            raise self.failure(_DOING, key) from error


def recognise_map(path: Sequence[Operator]) -> FastPath | None:
    """Find the mapper of ``stateful_map`` or ``stateful_flat_map`` around a core step."""
    kinds = [type(step) for step in path[:-1]]
    if kinds[-3:] == [_stateful_map, _stateful_flat_map, _stateful]:
        return FastPath(MapShard, path[-4], pair_router)
    if kinds[-2:] == [_stateful_flat_map, _stateful]:
        return FastPath(FlatMapShard, path[-3], pair_router)
    return None
