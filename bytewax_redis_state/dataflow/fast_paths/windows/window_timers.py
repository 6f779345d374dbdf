"""The timers of a shard's windows: they foretell when a window closes without another value.

A window closes when the watermark reaches its end. The watermark moves with the system's time, so
for most clocks that time can be foretold. It comes nearer with every value that moves the
watermark. Therefore keys that got values are set aside together with the soonest of their times,
and each gets a timer of its own only when that time has come: a value costs nothing in the heap,
and idle keys are never touched.

Invariant: no window closes earlier than with Bytewax's own logic, nor, where the clock reads the
system's time, later than it is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

from bytewax.operators import _get_system_utc, _identity

from bytewax_redis_state.dataflow.fast_paths.windows.key_windows import NEVER, KeyWindows
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import WindowConfig
from bytewax_redis_state.dataflow.shards.deferred_window import backoff
from bytewax_redis_state.dataflow.shards.return_checks import checked_time
from bytewax_redis_state.dataflow.shards.timers import Timers

__all__ = ["WindowTimers"]


class WindowTimers:
    """Keep the times of one shard's keys.

    :arg config: Of the step.
    """

    def __init__(self, config: WindowConfig) -> None:
        self._config = config
        self._reads_system = config.now is _get_system_utc
        self._passes_on = config.to_system is _identity
        self._timers = Timers()
        self._aside: set[str] = set()
        self._soonest_aside = NEVER
        self._put_off: set[str] = set()
        self.moved: set[str] = set()
        """Keys whose time may have changed since :meth:`next` last computed it."""
        self.key = ""
        """The key whose time is being computed, for errors."""

    def drop(self, key: str) -> None:
        """Forget the time of a key."""
        self._timers.drop(key)
        self._put_off.discard(key)

    def next(self, held: Mapping[str, KeyWindows]) -> datetime | None:
        """Compute the times of the keys in ``moved``.

        :arg held: The shard's keys.
        :returns: The soonest time of all keys, or an earlier one; ``None`` for never.
        """
        for key in self.moved:
            self.key = key
            windows = held.get(key)
            wish = None if windows is None else self._wish(windows)
            if windows is None:
                continue
            if wish is None:
                self._stop_putting_off(key)
                continue
            at = self._foretold(windows, wish)
            if at is None:
                self._timers.set(key, self._guess(key, windows, wish))
            else:
                self._aside.add(key)
                if at < self._soonest_aside:
                    self._soonest_aside = at
        self.moved.clear()
        soonest = self._timers.next()
        if self._soonest_aside is NEVER:
            return soonest
        return self._soonest_aside if soonest is None else min(soonest, self._soonest_aside)

    def due(self, now: datetime, held: Mapping[str, KeyWindows]) -> list[str]:
        """Take out the keys whose time has come.

        :arg now: Times up to and at this one have come.
        :arg held: The shard's keys.
        :returns: The keys, sorted.
        """
        if self._soonest_aside <= now:
            for key in self._aside:
                self._set(key, held)
            self._aside.clear()
            self._soonest_aside = NEVER
        # A timer is too early where a value has closed the window that it was set for.
        due = self._timers.pop_due(now)
        self._put_off.difference_update(due)
        return [key for key in due if not self._is_early(key, now, held)]

    def _set(self, key: str, held: Mapping[str, KeyWindows]) -> datetime | None:
        windows = held.get(key)
        wish = None if windows is None else self._wish(windows)
        at = None if windows is None or wish is None else self._foretold(windows, wish)
        if at is not None:
            self._timers.set(key, at)
        return at

    def _is_early(self, key: str, now: datetime, held: Mapping[str, KeyWindows]) -> bool:
        at = self._set(key, held)
        if at is None or at > now:
            return at is not None
        self._timers.drop(key)
        return False

    def _wish(self, windows: KeyWindows) -> datetime | None:
        """Tell the time for which Bytewax's own logic would ask."""
        wish = windows.closes
        if self._config.ordered and windows.queue:
            wish = min(wish, windows.queue[0][1])
        if wish is NEVER:
            return None
        at = wish if self._passes_on else self._config.to_system(wish)
        return None if at is None else checked_time(at)

    def _foretold(self, windows: KeyWindows, wish: datetime) -> datetime | None:
        """Foretell when the watermark reaches ``next``.

        :returns: The system's time; ``None`` where it can't be foretold: the clock is not the
            system's, or a time is in a zone whose offset changes.
        """
        if (
            not (self._reads_system and isinstance(windows.base.tzinfo, timezone))
            or windows.unpredictable
        ):
            return None
        try:
            return max(wish, windows.since + (windows.next - windows.base))
        except OverflowError:
            return NEVER

    def _guess(self, key: str, windows: KeyWindows, wish: datetime) -> datetime:
        """Give the time that Bytewax would ask for, or, once that was fruitless, a later one."""
        now = _get_system_utc()
        self._put_off.discard(key)
        if wish > now:
            return wish
        if not windows.fruitless:
            return wish
        self._put_off.add(key)
        return now + backoff(windows.fruitless)

    def _stop_putting_off(self, key: str) -> None:
        # In the engine, None leaves an earlier time as it is. We have put that time off, so the
        # engine would have notified the key by now: notify it at once.
        if key in self._put_off:
            self._put_off.discard(key)
            self._timers.set(key, _get_system_utc())
