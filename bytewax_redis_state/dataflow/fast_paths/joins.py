"""Fast shards of ``join``: the values of each side per key, without Bytewax's two logic objects.

Invariant: per key, the output and the end of the key are as with Bytewax's own logic, in all modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Operator
from bytewax.operators import _JoinState

from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.pair_shard import PairShard
from bytewax_redis_state.dataflow.shards.logic_snapshots import join_snapshot
from bytewax_redis_state.dataflow.shards.routing import Pairs, pair_router
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["JoinShard", "recognise_join"]

_Sides = tuple[Sequence[Any], ...]
"""The values of each side: lists where all are kept, otherwise tuples, which take less memory."""

_join: Any = op.join._op_cls  # type: ignore[attr-defined]
_stateful: Any = op.stateful._op_cls  # type: ignore[attr-defined]


class JoinShard(PairShard):
    """Join the sides of one shard's keys.

    On resume each key's sides are as of the last committed epoch. They are decoded when the key's
    first item comes; in the mode ``final`` at once, because all keys are put out at the end.
    """

    _held: dict[str, _Sides]

    def configure(self, step: Any) -> None:
        """Read the modes and the number of sides."""
        self._none: _Sides = ((),) * len(step.sides.stream_ids)
        self._keeps_last = step.insert_mode == "last"
        self._put = self._put_any if step.insert_mode == "product" else self._put_one
        self._emit: str = step.emit_mode

    def load(self, states: Mapping[str, bytes]) -> None:
        """Keep restored keys encoded, or, in the mode ``final``, decode them.

        :raises DecodeError: If a state can't be decoded.
        """
        if self._emit == "final":
            for key, state in self._codec.decode_all(states):
                self._held[key] = self.held_of(state)
        else:
            self._asleep.update(states)

    def process(self, pairs: Pairs, items: Items) -> None:
        """Add each value to its side, and put out the rows that the mode asks for."""
        states, put, key = self._held, self._put, ""
        is_complete, is_running = self._emit == "complete", self._emit == "running"
        try:
            for key, (side, value) in pairs:
                sides = put(states.get(key), side, value)
                if is_complete and all(sides):
                    items += [(key, joined) for joined in product(*sides)]
                    self.discard(key)
                    continue
                states[key] = sides
                if is_running:
                    items += [(key, joined) for joined in _joined(sides)]
        except Exception as error:
            raise self.failure("StatefulBatchLogic.on_batch", key) from error

    def _put_one(self, sides: _Sides | None, side: int, value: Any) -> _Sides:
        changed = [*(self._none if sides is None else sides)]
        if self._keeps_last or not changed[side]:
            changed[side] = (value,)
        return tuple(changed)

    def _put_any(self, sides: _Sides | None, side: int, value: Any) -> _Sides:
        if sides is None:
            sides = tuple([] for _ in self._none)
        [*sides][side].append(value)  # type: ignore[attr-defined]
        return sides

    def ended(self) -> Items:
        """In the mode ``final``, put out the rows of each key and delete it."""
        items: Items = []
        if self._emit == "final":
            for key, sides in sorted(self._held.items(), key=lambda item: item[0]):
                items += [(key, joined) for joined in _joined(sides)]
                self.discard(key)
                self._dirty.add(key)
        return items

    def held_of(self, state: _JoinState) -> _Sides:
        """Take the sides out of Bytewax's state."""
        kind = list if self._put == self._put_any else tuple
        return tuple(map(kind, state.seen))

    def state_of(self, held: _Sides) -> Any:
        """Make a compact state, which is read as Bytewax's state."""
        return join_snapshot(held)


def _joined(sides: _Sides) -> Iterable[tuple[Any, ...]]:
    return product(*(values or (None,) for values in sides))


def recognise_join(path: Sequence[Operator]) -> FastPath | None:
    """Find the modes of ``join`` around a core step."""
    kinds = [type(step) for step in path[:-1]]
    if kinds[-2:] == [_join, _stateful]:
        return FastPath(JoinShard, path[-3], pair_router)
    return None
