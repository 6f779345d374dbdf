"""The memory backend for coroutines: the methods of the one on Redis, run by calls in memory.

Invariant: nothing is awaited inside an operation but a lock that somebody else holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from bytewax_redis_state.backend.aio import AsyncStateBackend
from bytewax_redis_state.backend.lock import LOCK_TTL, AsyncLock, LockKeeper
from bytewax_redis_state.backend.transaction import AsyncTransaction, Transaction
from bytewax_redis_state.backend.values import Key

if TYPE_CHECKING:
    from bytewax_redis_state.backend.memory.memory_backend import MemoryStateBackend

__all__ = ["AsyncMemoryStateBackend"]


class _Calls:
    """What stands in for the operations of a backend: calls that are still to be made."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Callable[[], Any]]:
        return partial(partial, getattr(self._target, name))


class _LockCalls:
    """What stands in for the operations on a lock."""

    def __init__(self, keeper: LockKeeper) -> None:
        self.name = keeper.name
        self.ttl = keeper.ttl
        self.take = partial(partial, keeper.take)
        self.renew = partial(partial, keeper.renew)
        self.release = partial(partial, keeper.release)


class _DraftCalls:
    """What stands in for a transaction's draft."""

    def __init__(self, transaction: Transaction, commit: Callable[[], None]) -> None:
        self.get = partial(partial, transaction.get)
        self.put = transaction.put
        self.delete = transaction.delete
        self._commit = commit

    def commit(self) -> Callable[[], None]:
        """Write, if what was read is still there."""
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
    """Keep values in this process, as coroutines; ``MemoryStateBackend.aio`` is one."""

    def __init__(self, backend: MemoryStateBackend) -> None:
        self._backend = backend
        calls: Any = _Calls(backend)
        self._operations = self._health = calls
        self._meter = backend.meter
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
        calls: Any = _LockCalls(self._backend.lock_keeper(name, ttl, wait))
        return AsyncLock(driver, calls, renew=renew)

    def transaction(self, tag: str | None = None) -> AsyncTransaction:
        """Begin a transaction, committed at the end of an ``async with`` block."""
        transaction = self._backend.transaction(tag)
        draft: Any = _DraftCalls(transaction, transaction.commit)
        return AsyncTransaction(self._driver, draft)

    async def close(self) -> None:
        """Do nothing: what is kept goes with the backend."""
