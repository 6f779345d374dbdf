"""Deadlines: when the idle keys of one shard are dropped.

Times are the flow's (:mod:`.flow_clock`), in whole milliseconds. A deadline is set when the epoch
closes, and all keys touched in an epoch get the same one. So nothing is paid per item, memory and
Redis know the same deadline, and a key that is not committed yet is never dropped.

Invariant: a key has one deadline or none, and a key without one takes no room here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

__all__ = ["NEVER", "Deadlines", "Lifetime"]

NEVER = sys.maxsize
"""Later than any deadline."""

_MILLISECOND = timedelta(milliseconds=1)
_GRAINS = 32


class Lifetime:
    """The retention of a step, as its shards use it: how long an idle key is kept.

    :arg kept: At least a millisecond; the attribute ``kept`` is in milliseconds.
    :arg now: Gives the flow's time in milliseconds.
    """

    def __init__(self, kept: timedelta, now: Callable[[], int]) -> None:
        self.now = now
        self.kept = max(1, kept // _MILLISECOND)
        self._grain = max(1, self.kept // _GRAINS)

    def deadline(self) -> int:
        """Give the deadline of a key touched now, in milliseconds.

        :returns: The deadline, rounded up by at most a thirty-second part of the retention. So a
            shard has some 33 sets of keys, whatever their number.
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
        """A function from a key to its deadline, or ``None``; valid until the next change."""
        return self._times.get

    def set(self, key: str, deadline: int) -> None:
        """Replace the deadline of a key."""
        before = self._times.get(key)
        if before == deadline:
            return
        if before is not None:
            self._remove_from(key, before)
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
            self._remove_from(key, before)

    def _remove_from(self, key: str, deadline: int) -> None:
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
        :arg most: The largest number of keys to take.
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
        """Free the memory that deleted keys still take: a dict shrinks only when it is copied."""
        self._times = dict(self._times)
        self._keys = {deadline: set(keys) for deadline, keys in self._keys.items()}
