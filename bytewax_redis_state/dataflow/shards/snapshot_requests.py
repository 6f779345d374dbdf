"""Requests for full snapshots, which go to all live shards of a process.

A Redis that came back empty is filled again from memory, so each shard is asked for everything that
it holds. The engine asks a shard for its snapshot only in epochs in which the shard was awoken.
Therefore each shard wakes by itself every now and then, where there may be requests.

Invariant: a shard answers a request once, with its first snapshot after the request. A shard that
is built after a request answers it too, but the requester does not wait for that answer.
"""

from __future__ import annotations

from datetime import timedelta
from threading import Lock
from typing import NamedTuple, Protocol
from weakref import WeakSet

__all__ = ["RequestedShard", "SnapshotRequest", "SnapshotRequests"]


class SnapshotRequest(NamedTuple):
    """A request for a full snapshot.

    :arg number: Grows with each request.
    :arg awaited: Whether the requester waits for this shard's answer: the shard was there when the
        request went out.
    """

    number: int
    awaited: bool


class RequestedShard(Protocol):
    """A shard that can be asked for a full snapshot."""

    def request(self, request: SnapshotRequest) -> None:
        """Answer a request with the next snapshot; called from any thread."""


class SnapshotRequests:
    """Keep the live shards of all steps, and ask them for full snapshots.

    :arg interval: How long a shard may sleep before it looks for a request. A shorter interval
        would wake idle shards more often; a longer one would delay the renewal of an emptied Redis.
    """

    def __init__(self, interval: timedelta = timedelta(seconds=10)) -> None:
        self.interval = interval
        self.latest = 0
        self._lock = Lock()
        # The engine drops a logic without telling it, so a shard must not be kept alive from here.
        self._shards: WeakSet[RequestedShard] = WeakSet()

    def add(self, shard: RequestedShard) -> None:
        """Add a shard that was just built."""
        with self._lock:
            self._shards.add(shard)
            if self.latest:
                shard.request(SnapshotRequest(self.latest, awaited=False))

    def send(self, number: int) -> int:
        """Ask all shards for a full snapshot; called from any thread.

        :arg number: Number of the request, above that of the latest one.
        :returns: How many shards will answer.
        """
        with self._lock:
            self.latest = number
            for shard in self._shards:
                shard.request(SnapshotRequest(number, awaited=True))
            return len(self._shards)
