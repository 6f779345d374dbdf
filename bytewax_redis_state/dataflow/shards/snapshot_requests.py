"""The roll: the live shards of a process, who can be asked for all that they hold.

A Redis that came back empty is filled again from memory. The engine asks a shard for its snapshot
in the epochs in which it was awoken only, so while there is a roll each shard wakes by itself now
and then. Invariant: a shard answers a call once, with its first snapshot after it; one that is born
after a call answers too, but nobody waits for it.
"""

from __future__ import annotations

from datetime import timedelta
from threading import Lock
from typing import NamedTuple, Protocol
from weakref import WeakSet

__all__ = ["Asked", "Call", "SnapshotRequests"]


class Call(NamedTuple):
    """A call for everything.

    :arg number: Grows with each call.
    :arg counted: Whether the shard was there when it went out.
    """

    number: int
    counted: bool


class Asked(Protocol):
    """What can be asked for everything."""

    def ask(self, call: Call) -> None:
        """Answer with the next snapshot."""


class SnapshotRequests:
    """Keep the live shards of all steps, and call them.

    :arg interval: How long a shard may sleep before it looks whether it was called.
    """

    def __init__(self, interval: timedelta = timedelta(seconds=10)) -> None:
        self.interval = interval
        self.number = 0
        self._lock = Lock()
        self._shards: WeakSet[Asked] = WeakSet()

    def add(self, shard: Asked) -> None:
        """Take in a shard that was just built."""
        with self._lock:
            self._shards.add(shard)
            if self.number:
                shard.ask(Call(self.number, counted=False))

    def call(self, number: int) -> int:
        """Ask all shards; from any thread.

        :arg number: Of the call, above that of the last one.
        :returns: How many shards will answer.
        """
        with self._lock:
            self.number = number
            for shard in self._shards:
                shard.ask(Call(number, counted=True))
            return len(self._shards)
