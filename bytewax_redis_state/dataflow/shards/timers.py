"""The notification times of one shard's keys.

A heap with lazy deletion: moving a key's time later, which is what most logics do on every batch,
touches only a dict. Invariant: a key with a time has a heap entry at or before that time, and stale
entries take no more room than live ones.
"""

from __future__ import annotations

from datetime import datetime
from heapq import heapify, heappop, heappush

__all__ = ["Timers"]

_STALE = 16  # entries, beside as many as there are keys with a time


class Timers:
    """Keep the next notification time of each key, one per key as in the engine."""

    def __init__(self) -> None:
        self._times: dict[str, datetime] = {}
        self._heap: list[tuple[datetime, str]] = []
        self._queued: dict[str, datetime] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._times

    def set(self, key: str, at: datetime) -> None:
        """Replace the time of a key."""
        self._times[key] = at
        queued = self._queued.get(key)
        if queued is None or at < queued:
            self._queued[key] = at
            heappush(self._heap, (at, key))
            # A time that is moved to an earlier one leaves a stale entry behind.
            self._rebuild_if_stale()

    def drop(self, key: str) -> None:
        """Forget the time of a key, if it has one."""
        if self._times.pop(key, None):
            self._rebuild_if_stale()

    def next(self) -> datetime | None:
        """Tell the soonest time of all keys."""
        while self._heap:
            at, key = self._heap[0]
            if self._times.get(key) == at:
                return at
            self._requeue_first()
        return None

    def pop_due(self, now: datetime) -> list[str]:
        """Take out the keys whose time has come.

        :arg now: Times up to and at this one are due.
        :returns: The keys, sorted.
        """
        due = []
        while (at := self.next()) is not None and at <= now:
            key = self._heap[0][1]
            due.append(key)
            del self._times[key]
            self._requeue_first()
        return sorted(due)

    def _requeue_first(self) -> None:
        at, key = heappop(self._heap)
        if self._queued.get(key) != at:
            return
        later = self._times.get(key)
        if later is None:
            del self._queued[key]
        else:
            self._queued[key] = later
            heappush(self._heap, (later, key))

    def _rebuild_if_stale(self) -> None:
        if len(self._heap) > 2 * len(self._times) + _STALE:
            self._rebuild()

    def _rebuild(self) -> None:
        self._times = dict(self._times)  # a copied dict is no larger than its content
        self._queued = dict(self._times)
        self._heap = [(at, key) for key, at in self._times.items()]
        heapify(self._heap)
