"""Fast shards of ``stateful_map`` and ``stateful_flat_map``: a state per key and one function.

Invariant: per key, the user's mapper gets the calls that Bytewax's own logic would make, and what
it returns is taken or refused in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Operator, f_repr

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.deadlines import Lifetime
from bytewax_redis_state.dataflow.fast_path import FastPath
from bytewax_redis_state.dataflow.roll import Roll
from bytewax_redis_state.dataflow.route import Pairs, pair_router
from bytewax_redis_state.dataflow.shard import NOTHING, Items
from bytewax_redis_state.dataflow.states import StateShard

__all__ = ["FlatMapShard", "MapShard", "recognise_map"]

_DOING = "StatefulBatchLogic.on_batch"
_stateful_map: Any = op.stateful_map._op_cls  # type: ignore[attr-defined]
_stateful_flat_map: Any = op.stateful_flat_map._op_cls  # type: ignore[attr-defined]
_stateful: Any = op.stateful._op_cls  # type: ignore[attr-defined]


class FlatMapShard(StateShard):
    """Run the mapper of ``stateful_flat_map`` on one shard's keys, on items as they come.

    On resume each key's state is as of the last committed epoch; it is decoded when the key's
    first item comes.

    :arg step_id: Of the user's core step; errors name it.
    :arg step: The operator, with its mapper.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg roll: Calls for everything where Redis came back empty; ``None`` for never.
    """

    emits = "emit_values"

    def __init__(
        self,
        step_id: str,
        step: Any,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        roll: Roll | None = None,
    ) -> None:
        super().__init__(step_id, codec, lifetime, roll)
        self._mapper: Callable[[Any, Any], Any] = step.mapper
        self._operator_id: str = step.step_id

    def load(self, states: Mapping[str, bytes]) -> None:
        """Keep restored keys as they are encoded."""
        self._asleep.update(states)

    def on_batch(self, values: list[Pairs]) -> tuple[Iterable[Items], bool]:
        """Run the mapper on each value.

        :arg values: What each batch from upstream holds for this shard.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If the mapper fails; names the user's step and the key.
        """
        items: Items = []
        for pairs in values:
            self.wake(pairs)
            self._map(pairs, items)
            self._dirty.update([key for key, _value in pairs])
        return ((items,) if items else NOTHING), False

    def _map(self, pairs: Pairs, items: Items) -> None:
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
    """Run the mapper of ``stateful_map`` on one shard's keys; as :class:`FlatMapShard`."""

    emits = "emit_value"

    def _map(self, pairs: Pairs, items: Items) -> None:
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
