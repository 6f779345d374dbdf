"""Fast shards of ``join``: a state per key, without the two logics that Bytewax has around it.

Invariant: per key, what is put out and when a key is gone is as with Bytewax's own logic, in all
modes.
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
"""The values of each side: lists where all are kept, otherwise tuples, which cost the least."""

_join: Any = op.join._op_cls  # type: ignore[attr-defined]
_stateful: Any = op.stateful._op_cls  # type: ignore[attr-defined]


class JoinShard(PairShard):
    """Join the sides of one shard's keys, on items as they come.

    On resume each key's sides are as of the last committed epoch; they are decoded when the key's
    first item comes, or at once where the end of input is waited for.
    """

    _held: dict[str, _Sides]

    def configure(self, step: Any) -> None:
        """Take the modes, and how many sides there are."""
        self._none: _Sides = ((),) * len(step.sides.stream_ids)
        self._keeps_last = step.insert_mode == "last"
        self._put = self._put_any if step.insert_mode == "product" else self._put_one
        self._emit: str = step.emit_mode

    def load(self, states: Mapping[str, bytes]) -> None:
        """Keep restored keys as they are encoded, or decode them.

        :raises DecodeError: If a state can't be decoded.
        """
        if self._emit == "final":
            for key, state in self._codec.decode_all(states):
                self._held[key] = self.held_of(state)
        else:
            self._asleep.update(states)

    def take(self, pairs: Pairs, items: Items) -> None:
        """Take each value to its side, and put out what the mode asks for."""
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
        """Put out what has come of each key, and forget it, where the mode waits for the end."""
        items: Items = []
        if self._emit == "final":
            for key, sides in sorted(self._held.items(), key=lambda item: item[0]):
                items += [(key, joined) for joined in _joined(sides)]
                self.discard(key)
                self._dirty.add(key)
        return items

    def held_of(self, state: _JoinState) -> _Sides:
        """Take the sides out of a state."""
        kind = list if self._put == self._put_any else tuple
        return tuple(map(kind, state.seen))

    def state_of(self, held: _Sides) -> Any:
        """Make what is read as Bytewax's state."""
        return join_snapshot(held)


def _joined(sides: _Sides) -> Iterable[tuple[Any, ...]]:
    return product(*(values or (None,) for values in sides))


def recognise_join(path: Sequence[Operator]) -> FastPath | None:
    """Find the modes of ``join`` around a core step."""
    kinds = [type(step) for step in path[:-1]]
    if kinds[-2:] == [_join, _stateful]:
        return FastPath(JoinShard, path[-3], pair_router)
    return None
