"""Locks in the memory of this process, for the memory backend."""

from __future__ import annotations

import time
from datetime import timedelta

from bytewax_redis_state.backend.lock_operations import (
    LockGrant,
    next_pause,
    validity_seconds,
    wait_seconds,
)
from bytewax_redis_state.backend.memory.store import MemoryStore
from bytewax_redis_state.backend.operations import milliseconds
from bytewax_redis_state.backend.values import Key

__all__ = ["MemoryStoredLock"]


class MemoryStoredLock:
    """A lock in a memory store.

    :arg store: The store.
    :arg full: The full key of the lock.
    :arg name: The lock's name, for errors.
    :arg ttl: After which time the lock is free again.
    :arg wait: How long to wait for the lock; ``None`` for ever.
    """

    def __init__(
        self, store: MemoryStore, full: bytes, name: Key, ttl: timedelta, wait: timedelta | None
    ) -> None:
        self.name = name
        self.ttl = milliseconds(ttl)
        self._store = store
        self._full = full
        self._wait = wait_seconds(wait)
        self.is_abandoned = False

    def take(self, owner: str) -> LockGrant:
        """Take the lock as soon as it is free."""
        end = None if self._wait is None else time.monotonic() + self._wait
        while not (grant := self._try(owner)):
            if self.is_abandoned:
                end = 0.0
            time.sleep(next_pause(self.name, 0.01, end).seconds)
        return grant

    def _try(self, owner: str) -> LockGrant | None:
        with self._store.mutex:
            lock, now = self._store.lock(self._full), self._store.clock()
            if lock.owner and lock.owner != owner and lock.until > now:
                return None
            lock.token += lock.owner != owner
            lock.owner, lock.until = owner, now + self.ttl / 1000
            return LockGrant(lock.token, time.monotonic() + validity_seconds(self.ttl))

    def renew(self, owner: str) -> float | None:
        """Start the lock's time again; gives the new end, or None if the lock was lost."""
        with self._store.mutex:
            lock = self._store.lock(self._full)
            if lock.owner != owner:
                return None
            lock.until = self._store.clock() + self.ttl / 1000
            return time.monotonic() + validity_seconds(self.ttl)

    def release(self, owner: str) -> bool:
        """Give the lock back; tells whether it was still ours."""
        with self._store.mutex:
            lock = self._store.lock(self._full)
            ours = lock.owner == owner
            if ours:
                lock.owner, lock.until, lock.released = "", self._store.clock(), owner
            return ours or lock.released == owner
