"""When the windows of a shard's keys are to be looked at, without a value that comes for them.

A window closes when the watermark gets to its end, which for most clocks can be foretold from the
key's clock. That time comes nearer with every value that moves the watermark, so keys that values
have come for are set aside with the soonest of their times, and get timers of their own when that
time has come. Invariant: nothing happens earlier than with Bytewax's own logic, or, where the clock
reads the system's time, later than it is due.
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

    :arg rules: Of the step.
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
        """Keys whose time may be another one since they were last asked."""
        self.key = ""
        """The one being asked, for errors."""

    def drop(self, key: str) -> None:
        """Forget the time of a key."""
        self._timers.drop(key)
        self._put_off.discard(key)

    def next(self, held: Mapping[str, KeyWindows]) -> datetime | None:
        """Ask the keys that have moved.

        :arg held: The shard's keys.
        :returns: The soonest time of all, or sooner; ``None`` for never.
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

        :arg now: Times up to and at this one have.
        :arg held: The shard's keys.
        :returns: The keys, sorted.
        """
        if self._soonest_aside <= now:
            for key in self._aside:
                self._set(key, held)
            self._aside.clear()
            self._soonest_aside = NEVER
        # A timer can be too early by now, where a value has closed what it was for.
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
        """Tell the time that Bytewax would ask for."""
        wish = windows.closes
        if self._config.ordered and windows.queue:
            wish = min(wish, windows.queue[0][1])
        if wish is NEVER:
            return None
        at = wish if self._passes_on else self._config.to_system(wish)
        return None if at is None else checked_time(at)

    def _foretold(self, windows: KeyWindows, wish: datetime) -> datetime | None:
        """Foretell when the next thing happens; ``None`` where that can't be."""
        # Other zones add by the wall clock, which jumps.
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
        """Name the time asked for, or, where it has passed in vain, a little later each time."""
        now = _get_system_utc()
        self._put_off.discard(key)
        if wish > now:
            return wish
        if not windows.fruitless:
            return wish
        self._put_off.add(key)
        return now + backoff(windows.fruitless)

    def _stop_putting_off(self, key: str) -> None:
        # As in the engine, None leaves an earlier time as it is. Where we have put that off, the
        # engine would have been done with it by now.
        if key in self._put_off:
            self._put_off.discard(key)
            self._timers.set(key, _get_system_utc())
