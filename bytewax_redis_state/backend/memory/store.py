"""The records, locks and restore markers of memory backends, and the mutex that guards them.

Backends that were made ``beside`` each other share one store, as backends on one server do. Keys
are full keys, with the prefix of their backend.

Invariant: only a thread that holds the mutex reads or changes what the store holds. Each method
takes the mutex; a caller takes it too where several calls belong together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from bytewax_redis_state.backend.lock_operations import LOCK_LIFE
from bytewax_redis_state.backend.operations import milliseconds

__all__ = ["LockRecord", "MemoryStore", "Record"]


@dataclass
class Record:
    """A value as it is stored.

    :arg data: The encoded value.
    :arg until: When the value goes, by the store's clock; ``None`` for never.
    """

    data: bytes
    until: float | None


@dataclass
class LockRecord:
    """A lock as it is stored.

    :arg owner: The holder's ID; empty where nobody holds the lock.
    :arg until: When the holder's time is over, by the store's clock.
    :arg token: The fencing token of the last holder.
    :arg released: The ID of the holder that gave the lock back last.
    """

    owner: str = ""
    until: float = 0.0
    token: int = 0
    released: str = ""


class MemoryStore:
    """Keep records, locks and markers by full key.

    :arg clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.mutex = threading.RLock()
        self._records: dict[bytes, Record] = {}
        self._locks: dict[bytes, LockRecord] = {}
        self._markers: dict[bytes, bytes] = {}

    # --- records --------------------------------------------------------------------------------

    def record(self, full: bytes) -> Record | None:
        """Find a record; one whose time is over is dropped."""
        with self.mutex:
            record = self._records.get(full)
            if record is not None and record.until is not None and record.until <= self.clock():
                del self._records[full]
                return None
            return record

    def data(self, full: bytes) -> bytes | None:
        """Give the encoded value of a key, ``None`` where there is none."""
        record = self.record(full)
        return None if record is None else record.data

    def put(self, full: bytes, data: bytes, ttl: timedelta | None) -> None:
        """Store an encoded value, without an end where no TTL is given."""
        with self.mutex:
            self._records[full] = Record(data, self.end_of(ttl))

    def drop(self, full: bytes) -> bool:
        """Delete a record; tells whether there was one."""
        with self.mutex:
            there = self.record(full) is not None
            self._records.pop(full, None)
            return there

    def end_of(self, ttl: timedelta | None) -> float | None:
        """Tell when a TTL that starts now is over."""
        return None if ttl is None else self.clock() + milliseconds(ttl) / 1000

    def time_left(self, full: bytes) -> timedelta | None:
        """Tell how long a value stays; ``None`` where it has no end, or is not there."""
        record = self.record(full)
        if record is None or record.until is None:
            return None
        return timedelta(milliseconds=round(1000 * (record.until - self.clock())))

    def full_keys(self, prefix: bytes) -> list[bytes]:
        """List the keys that start with a prefix."""
        with self.mutex:
            return [k for k in list(self._records) if k.startswith(prefix) and self.record(k)]

    # --- locks ----------------------------------------------------------------------------------

    def lock(self, full: bytes) -> LockRecord:
        """Find a lock, or make it; hold the mutex until the record is changed.

        The first token of a new lock comes from the clock, as on a server: a lock of that name
        may have been dropped, and its tokens were lower.
        """
        if full not in self._locks:
            self._drop_old_locks()
            self._locks[full] = LockRecord(token=time.time_ns() // 1000)
        return self._locks[full]

    def _drop_old_locks(self) -> None:
        oldest = self.clock() - LOCK_LIFE.total_seconds()
        for full in [full for full, lock in self._locks.items() if lock.until < oldest]:
            del self._locks[full]

    # --- markers --------------------------------------------------------------------------------

    def marker(self, prefix: bytes) -> bytes:
        """Read the marker of a restore into a prefix, empty for none."""
        with self.mutex:
            return self._markers.get(prefix, b"")

    def mark(self, prefix: bytes, seen: bytes, value: bytes) -> bool:
        """Replace the marker if it is still the one that was seen; empty stands for none."""
        with self.mutex:
            unchanged = self.marker(prefix) == seen
            if unchanged:
                self._markers[prefix] = value
            return unchanged
