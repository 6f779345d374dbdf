"""The shard that runs the logic objects of any operator, one per key.

Invariant: each logic gets the calls that it would get in a stock step, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from bytewax.operators import (
    StatefulBatchLogic,
    StatefulLogic,
    _FoldFinalLogic,
    _JoinLogic,
    _StatefulFlatMapLogic,
    _StatefulLogic,
)
from bytewax.operators.windowing import _WindowLogic

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.deferred_window import DeferredWindow
from bytewax_redis_state.dataflow.shards.logic_snapshots import snapshot_of
from bytewax_redis_state.dataflow.shards.return_checks import checked_emit, checked_time
from bytewax_redis_state.dataflow.shards.routing import Groups, merged
from bytewax_redis_state.dataflow.shards.shard import NOTHING, Items, Shard
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.dataflow.shards.timers import Timers
from bytewax_redis_state.errors import DecodeError

__all__ = ["ShardLogic"]

Logic = StatefulBatchLogic[Any, Any, Any]

_CAN_SLEEP = (_StatefulFlatMapLogic,)
_NO_TIMES = (_StatefulFlatMapLogic, _FoldFinalLogic, _JoinLogic)


def _keeps_time(logic: Logic) -> bool:
    """Tell whether a logic, or one that takes its place, may ever ask for a notification."""
    if isinstance(logic, _StatefulLogic):
        return type(logic.logic) not in _NO_TIMES
    return getattr(logic.notify_at, "__func__", None) is not StatefulBatchLogic.notify_at


def _may_sleep(logic: Logic) -> bool:
    """Tell whether the step's keys need no logic object until their first item.

    That is so with Bytewax's own logics that need neither notifications nor the end of input. All
    keys of a step have the same kind, and building one calls no code of the user's. So a restore
    of a million keys is one dictionary update a shard.
    """
    return type(logic) is _StatefulLogic and type(logic.logic) in _CAN_SLEEP


def _ignores_eof(logic: Logic) -> bool:
    if type(logic) is _StatefulLogic and logic.logic is not None:
        if type(logic.logic) is _JoinLogic:
            return logic.logic.emit_mode != "final"
        return getattr(logic.logic.on_eof, "__func__", None) is StatefulLogic.on_eof
    return getattr(logic.on_eof, "__func__", None) is StatefulBatchLogic.on_eof


class ShardLogic(Shard):
    """Run the logics of one shard's keys.

    On resume each key's logic is built from its state as of the last committed epoch, and asked
    for its notification time. A logic that never asks for one is built when its key's first item
    comes.

    :arg step_id: Of the user's core step; errors name it.
    :arg builder: The user's.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg requests: Ask for full snapshots where Redis came back empty; ``None`` for never.
    """

    def __init__(
        self,
        step_id: str,
        builder: Callable[[Any], Logic],
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        requests: SnapshotRequests | None = None,
    ) -> None:
        super().__init__(step_id, codec, lifetime, requests)
        self._builder = builder
        self._timers = Timers()
        self._keep_time = False
        self._awoken: set[str] = set()

    def load(self, states: Mapping[str, bytes]) -> None:
        """Build the logics of restored keys, unless they may sleep.

        :arg states: State key to encoded state.
        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder fails.
        """
        for key, state in self._codec.decode_all(states):
            try:
                logic = self._build(key, state)
            except Exception as error:
                raise self.failure("builder", key) from error
            if _may_sleep(logic):
                self._asleep.update(states)
                del self._asleep[key]
                return
        if self._keep_time:
            self._awoken.update(states)

    def on_batch(self, values: list[Groups]) -> tuple[Iterable[Items], bool]:
        """Run each key's logic once, on all its values.

        :arg values: This shard's part of each batch from upstream.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If a logic fails; names the user's step and the key.
        """
        groups = values[0] if len(values) == 1 else merged(values)
        self.expire_passed(groups)
        logics = self._held
        items: Items = []
        key, doing = "", "StatefulBatchLogic.on_batch"
        try:
            for key, batch in groups.items():
                logic = logics.get(key)
                if logic is None:
                    doing = "builder"
                    logic = self._wake(key)
                    doing = "StatefulBatchLogic.on_batch"
                result = logic.on_batch(batch)
                if (
                    type(result) is tuple
                    and len(result) == 2
                    and result[1] is False
                    and (type(result[0]) is tuple or type(result[0]) is list)
                ):
                    emit, is_complete = result
                else:
                    emit, is_complete = checked_emit(result)
                for value in emit:
                    items.append((key, value))
                if is_complete:
                    self.discard(key)
        except DecodeError:
            raise
        except Exception as error:
            raise self.failure(doing, key) from error
        self._dirty.update(groups)
        if self._keep_time:
            self._awoken.update(groups)
        return ((items,) if items else NOTHING), False

    def notified(self, now: datetime) -> Items:
        """Run the logics whose notification is due."""
        due = self._timers.pop_due(now)
        items: Items = []
        for key in due:
            self._act("on_notify", key, items)
        self._awoken.update(due)
        return items

    def ended(self) -> Items:
        """Call ``on_eof`` of the logics that do something then.

        A logic that inherits the empty method stays out of the delta: its state does not change.
        """
        items: Items = []
        for key, logic in sorted(self._held.items()):
            if not _ignores_eof(logic):
                self._act("on_eof", key, items)
        if self._keep_time:
            self._awoken.update(self._held)
        return items

    def next_time(self) -> datetime | None:
        """Ask the awoken keys' logics for their times.

        That happens here and not in ``on_batch``, so that timers that are due fire as in stock.
        """
        key = ""
        try:
            for key in self._awoken:
                logic = self._held.get(key)
                at = logic.notify_at() if logic is not None else None
                # As in the engine, None leaves an earlier time unchanged.
                if at is not None:
                    self._timers.set(key, checked_time(at))
        except Exception as error:
            raise self.failure("StatefulBatchLogic.notify_at", key) from error
        self._awoken.clear()
        return self._timers.next()

    def state_of(self, held: Logic) -> Any:
        """Take a logic's state."""
        return snapshot_of(held)

    def owes(self, key: str) -> bool:
        """Tell whether the key has an open window or a pending notification."""
        logic = self._held[key]
        return logic.owes if type(logic) is DeferredWindow else key in self._timers

    def forget(self, key: str) -> None:
        """Drop a key's logic and its notification."""
        self._held.pop(key, None)
        self._timers.drop(key)

    def _wake(self, key: str) -> Logic:
        data = self._asleep.pop(key, None)
        return self._build(key, None if data is None else self._codec.decode(key, data))

    def _build(self, key: str, state: Any) -> Logic:
        logic = self._builder(state)
        if not isinstance(logic, StatefulBatchLogic):
            raise TypeError("logic must subclass `bytewax.operators.StatefulBatchLogic`")
        if type(logic) is _WindowLogic:
            logic = DeferredWindow(logic)
        if not self._keep_time and _keeps_time(logic):
            self._keep_time = True
        self._held[key] = logic
        return logic

    def _act(self, method: str, key: str, items: Items) -> None:
        logic = self._held[key]
        try:
            emit, is_complete = checked_emit(getattr(logic, method)())
        except Exception as error:
            raise self.failure(f"StatefulBatchLogic.{method}", key) from error
        items.extend((key, value) for value in emit)
        if is_complete:
            self.discard(key)
        if is_complete or type(logic) is not DeferredWindow or logic.changed:
            self._dirty.add(key)
