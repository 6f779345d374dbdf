"""Windows whose notification is deferred until it can close something.

Bytewax's window logic asks to be notified at a window's close time. But the window closes when the
clock's watermark gets there, which may be much later, and until then the engine calls ``on_notify``
on every activation: an old window that is open makes the flow spin, and its key dirty in every
epoch.

Invariant: nothing is put out earlier or (where the clock is Bytewax's own and reads the system's
time) later than without the deferral.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from bytewax.operators import StatefulBatchLogic, _get_system_utc
from bytewax.operators.windowing import (
    _EventClockLogic,
    _SessionWindowerLogic,
    _SlidingWindowerLogic,
    _SystemClockLogic,
    _WindowLogic,
)

from bytewax_redis_state.dataflow.shards.logic_snapshots import window_snapshot

__all__ = ["DeferredWindow", "backoff"]

_TICK = timedelta(microseconds=1)
_FIRST_DELAY = timedelta(milliseconds=1)
_LAST_DELAY = timedelta(milliseconds=50)
_DOUBLINGS = 6


def backoff(fruitless: int) -> timedelta:
    """Tell how long to wait where it can't be foretold when a window closes.

    :arg fruitless: Number of notifications in a row that closed nothing; at least one.
    :returns: The delay, which doubles each time, up to 50 ms.
    """
    return min(_FIRST_DELAY * (1 << min(fruitless - 1, _DOUBLINGS)), _LAST_DELAY)


class DeferredWindow(StatefulBatchLogic[Any, Any, Any]):
    """Wrap the logic of all windows of one key.

    On resume the windows are as of the last committed epoch; the watermark moves with the system's
    time, also while the flow is down.

    :arg logic: Of ``window`` and every operator built on it.
    """

    def __init__(self, logic: _WindowLogic[Any, Any, Any, Any, Any]) -> None:
        self._logic = logic
        self._own_parts = type(logic.clock) in (_SystemClockLogic, _EventClockLogic) and type(
            logic.windower
        ) in (_SlidingWindowerLogic, _SessionWindowerLogic)
        self._reads_system = getattr(logic.clock, "now_getter", None) is _get_system_utc
        _keep_from_going_back(logic.clock)
        self._fruitless = 0
        self._put_off = False
        self.changed = True
        self.on_batch = logic.on_batch  # type: ignore[method-assign]
        self.snapshot = window_snapshot(logic)  # type: ignore[method-assign]

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        """Stand in for the window's method, which hides this one."""
        return self._logic.on_batch(values)

    def snapshot(self) -> Any:
        """Stand in for the window's method, which hides this one."""
        return self._logic.snapshot()

    @property
    def owes(self) -> bool:
        """Whether a window is open or a value is queued: the key's state is still needed."""
        return bool(self._logic.logics or self._logic.queue)

    def on_notify(self) -> tuple[Iterable[Any], bool]:
        """Close the windows that can be closed; ``changed`` says whether the state has changed."""
        self._put_off = False
        return self._watched(self._logic.on_notify)

    def on_eof(self) -> tuple[Iterable[Any], bool]:
        """Close the windows that can be closed; ``changed`` says whether the state has changed."""
        return self._watched(self._logic.on_eof)

    def _watched(self, act: Any) -> tuple[Iterable[Any], bool]:
        # The state has changed only if there is output or the queue has shrunk: a window that
        # closes puts out its metadata, one that opens takes from the queue, and the clock's own
        # state moves with items only.
        queued = len(self._logic.queue)
        events, is_complete = act()
        moved = bool(events) or is_complete or len(self._logic.queue) != queued
        self._fruitless = 0 if moved else self._fruitless + 1
        self.changed = moved or not self._own_parts
        return events, is_complete

    def notify_at(self) -> datetime | None:
        """Tell when to be notified.

        :returns: The time that the window asks for. Where that has passed: the time at which the
            watermark will reach it, or, if that can't be foretold, a time after a backoff.
        """
        wish: datetime | None = self._logic.notify_at()
        now = _get_system_utc()
        put_off, self._put_off = self._put_off, False
        if wish is None and put_off:
            # In the engine, None leaves an earlier time as it is. We have put that time off, so
            # the engine would have notified the key by now: have it notified at once.
            return now
        if wish is None or wish.tzinfo is None or wish > now:
            return wish
        at = self._later_than(now)
        self._put_off = at is not None
        return wish if at is None else at

    def _later_than(self, now: datetime) -> datetime | None:
        """Tell until when to put off a time that has passed; ``None`` for not at all."""
        reached = self._reached_at()
        if reached is not None and reached > now:
            return reached
        return now + backoff(self._fruitless) if self._fruitless else None

    def _reached_at(self) -> datetime | None:
        """Foretell the system's time at which a window closes or a waiting value is due."""
        clock: Any = self._logic.clock
        if not (self._own_parts and self._reads_system):
            return None
        target = min(self._targets(), default=None)
        if target is None or type(clock) is _SystemClockLogic:
            return target
        since: datetime = clock.state.system_time_of_max_event
        base: datetime = clock.state.watermark_base
        # In zones whose offset changes Python adds by the wall clock, which jumps.
        if not isinstance(base.tzinfo, timezone):
            return None
        try:
            return since + (target - base)
        except OverflowError:
            return datetime.max.replace(tzinfo=timezone.utc)

    def _targets(self) -> Iterable[datetime]:
        """Give the watermarks at which a window closes or a waiting value is due."""
        windower: Any = self._logic.windower
        closes_at = windower.notify_at()
        if closes_at is not None:
            # Bytewax closes a session beyond its gap, any other window at its end.
            yield closes_at + _TICK if type(windower) is _SessionWindowerLogic else closes_at
        if self._logic.ordered:
            yield from (timestamp for _value, timestamp in self._logic.queue)


def _keep_from_going_back(clock: Any) -> None:
    """Have a clock stand still while the system's time is behind what the clock has seen.

    Bytewax's own clocks refuse a watermark that goes back. The system's time does so where a flow
    resumes on a host whose clock is behind and, for the system clock, where it is set back.
    """
    if type(clock) is _EventClockLogic:
        clock._system_now = max(clock._system_now, clock.state.system_time_of_max_event)
    elif type(clock) is _SystemClockLogic:
        clock.now_getter = _forwards(clock.now_getter, clock._now)


def _forwards(now_getter: Callable[[], datetime], latest: datetime) -> Callable[[], datetime]:
    """Make a clock of another one that never goes back."""

    def now() -> datetime:
        nonlocal latest
        at = now_getter()
        if at > latest:
            latest = at
        return latest

    return now
