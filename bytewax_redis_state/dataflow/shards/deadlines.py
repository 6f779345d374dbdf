"""Deadlines: when the idle keys of one shard are to be dropped.

Time here is the flow's: the server's clock less all downtime, in whole milliseconds. Invariant: a
key has one deadline or none, and a key that has none leaves nothing here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

__all__ = ["NEVER", "Deadlines", "FlowClock", "Lifetime", "wall_clock"]

NEVER = sys.maxsize
"""Later than any deadline."""

_MILLISECOND = timedelta(milliseconds=1)
_GRAINS = 32
# A machine that sleeps goes on counting where it can: the server's clock does so too.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_clock() -> int:
    """Tell the time of a flow that has never stood still: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class FlowClock:
    """Count the flow's time on from what it was at a start; the wall's clock may jump meanwhile.

    :arg start: The flow's time now, in milliseconds.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._since = time.clock_gettime_ns(_CLOCK)

    def __call__(self) -> int:
        """Tell the flow's time in milliseconds."""
        return self._start + (time.clock_gettime_ns(_CLOCK) - self._since) // 1_000_000


class Lifetime:
    """How long an idle key of a step is kept.

    :arg kept: At least a millisecond; milliseconds in ``kept``.
    :arg now: Tells the flow's time in milliseconds.
    """

    def __init__(self, kept: timedelta, now: Callable[[], int]) -> None:
        self.now = now
        self.kept = max(1, kept // _MILLISECOND)
        self._grain = max(1, self.kept // _GRAINS)

    def deadline(self) -> int:
        """Give the deadline of a key touched now, in milliseconds.

        :returns: Rounded up, so that keys share deadlines: there are about 33 of them.
        """
        at = self.now() + self.kept
        return at + -at % self._grain


class Deadlines:
    """Keep the deadline of each idle key, and the keys of each deadline."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._keys: dict[int, set[str]] = {}
        self.soonest = NEVER

    def __len__(self) -> int:
        return len(self._times)

    @property
    def of(self) -> Callable[[str], int | None]:
        """What tells the deadline of a key, ``None`` where it has none; good until a change."""
        return self._times.get

    def set(self, key: str, deadline: int) -> None:
        """Replace the deadline of a key."""
        before = self._times.get(key)
        if before == deadline:
            return
        if before is not None:
            self._leave(key, before)
        self._times[key] = deadline
        if deadline in self._keys:
            self._keys[deadline].add(key)
        else:
            self._keys[deadline] = {key}
            self.soonest = min(self.soonest, deadline)

    def drop(self, key: str) -> None:
        """Forget the deadline of a key, if it has one."""
        before = self._times.pop(key, None)
        if before is not None:
            self._leave(key, before)

    def _leave(self, key: str, deadline: int) -> None:
        keys = self._keys[deadline]
        keys.discard(key)
        if not keys:
            self._forget(deadline)

    def _forget(self, deadline: int) -> None:
        del self._keys[deadline]
        if deadline == self.soonest:
            self.soonest = min(self._keys, default=NEVER)

    def has_passed(self, key: str, now: int) -> bool:
        """Tell whether a key's deadline has come."""
        return self._times.get(key, NEVER) <= now

    def take(self, now: int, most: int) -> list[str]:
        """Take out keys whose deadline has come, soonest first.

        :arg now: Deadlines up to and at this one have come.
        :arg most: At most so many.
        :returns: The keys.
        """
        taken: list[str] = []
        while self.soonest <= now and len(taken) < most:
            keys = self._keys[self.soonest]
            for _ in range(min(len(keys), most - len(taken))):
                key = keys.pop()
                del self._times[key]
                taken.append(key)
            if not keys:
                self._forget(self.soonest)
        return taken

    def shrink(self) -> None:
        """Give back what memory deleted keys have left behind."""
        self._times = dict(self._times)
        self._keys = {deadline: set(keys) for deadline, keys in self._keys.items()}
