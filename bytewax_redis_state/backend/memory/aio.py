"""The memory backend for coroutines: the methods of the one on Redis, run by calls in memory.

Invariant: an operation awaits nothing, except that a lock waits in a thread for its holder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import Any

from bytewax_redis_state.backend.aio import AsyncStateBackend
from bytewax_redis_state.backend.interface import StateBackend
from bytewax_redis_state.backend.lock import LOCK_TTL, AsyncLock
from bytewax_redis_state.backend.memory.lock import MemoryStoredLock
from bytewax_redis_state.backend.memory.transaction import MemoryTransaction
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.transaction import AsyncTransaction
from bytewax_redis_state.backend.values import Key

__all__ = ["AsyncMemoryStateBackend"]


class _Calls:
    """In place of a backend's operations: calls of the blocking backend, not made yet."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Callable[[], Any]]:
        return partial(partial, getattr(self._target, name))


class _LockCalls:
    """In place of the operations on a lock."""

    def __init__(self, stored: MemoryStoredLock) -> None:
        self.name = stored.name
        self.ttl = stored.ttl
        self._stored = stored
        self.take = partial(partial, stored.take)
        self.renew = partial(partial, stored.renew)
        self.release = partial(partial, stored.release)

    @property
    def is_abandoned(self) -> bool:
        """As ``LockOperations.is_abandoned``."""
        return self._stored.is_abandoned

    @is_abandoned.setter
    def is_abandoned(self, value: bool) -> None:
        self._stored.is_abandoned = value


class _TransactionCalls:
    """In place of the operations of a transaction."""

    def __init__(self, transaction: MemoryTransaction) -> None:
        self.get = partial(partial, transaction.get)
        self.put = transaction.put
        self.delete = transaction.delete
        self.end = transaction.end
        self._commit = transaction.commit

    def commit(self) -> Callable[[], None]:
        """Write the changes if the values that were read are still the same."""
        return self._commit


class _CallDriver:
    """Make the calls."""

    async def run(self, call: Callable[[], Any]) -> Any:
        """Make a call."""
        return call()


class _ThreadDriver:
    """Make calls that may wait."""

    async def run(self, call: Callable[[], Any]) -> Any:
        """Make a call in a thread."""
        return await asyncio.to_thread(call)


class AsyncMemoryStateBackend(AsyncStateBackend):
    """Keep values in this process, as coroutines; ``MemoryStateBackend.aio`` is one.

    :arg backend: The blocking backend that does the work.
    :arg meter: Its meter.
    :arg stored_lock: Makes one of its locks, from name, TTL and wait.
    :arg transaction: Makes one of its transactions, from a tag.
    """

    def __init__(
        self,
        backend: StateBackend,
        meter: Meter,
        stored_lock: Callable[[Key, timedelta, timedelta | None], MemoryStoredLock],
        transaction: Callable[[str | None], MemoryTransaction],
    ) -> None:
        self._backend = backend
        self._stored_lock = stored_lock
        self._transaction = transaction
        calls: Any = _Calls(backend)
        self._operations = self._health = calls
        self._meter = meter
        self._checkpoints = backend
        driver: Any = _CallDriver()
        self._driver = driver

    async def list_keys(self, prefix: Key = "", *, unique: bool = False) -> AsyncIterator[Key]:
        """List keys."""
        for key in self._backend.list_keys(prefix, unique=unique):
            yield key

    def lock(
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> AsyncLock:
        """Make a lock, to be held by an ``async with`` block."""
        driver: Any = _ThreadDriver()
        calls: Any = _LockCalls(self._stored_lock(name, ttl, wait))
        return AsyncLock(driver, calls, renew=renew)

    def transaction(self, tag: str | None = None) -> AsyncTransaction:
        """Begin a transaction, committed at the end of an ``async with`` block."""
        operations: Any = _TransactionCalls(self._transaction(tag))
        return AsyncTransaction(self._driver, operations)

    async def close(self) -> None:
        """Do nothing: the values go with the backend."""
