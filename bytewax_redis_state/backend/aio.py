"""The state backend on Redis, for coroutines: the same operations, run by another driver.

Invariant: a connection belongs to one event loop. Each loop gets a pool of its own, whose
connections are closed with the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from bytewax_redis_state.backend.driver import AsyncDriver
from bytewax_redis_state.backend.dump.checkpoint_file import CheckpointInfo
from bytewax_redis_state.backend.dump.dumpable import Dumpable
from bytewax_redis_state.backend.dump.file_access import PathOrFile
from bytewax_redis_state.backend.dump.progress_bar import OnProgress
from bytewax_redis_state.backend.dump.restoration import Restored, UnfinishedRestore
from bytewax_redis_state.backend.health import Health, HealthOperations, MemoryUsage
from bytewax_redis_state.backend.lock import LOCK_TTL, AsyncLock
from bytewax_redis_state.backend.lock_operations import LockOperations
from bytewax_redis_state.backend.operations import PAGE, Operations, Versioned
from bytewax_redis_state.backend.retry_policy import RetryPolicy
from bytewax_redis_state.backend.statistics import Meter, RedisStats
from bytewax_redis_state.backend.transaction import AsyncTransaction, TransactionOperations
from bytewax_redis_state.backend.transport.cluster_pool import AsyncClusterPool
from bytewax_redis_state.backend.transport.connection_pool import AsyncConnectionPool
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConflictError
from bytewax_redis_state.server.probe import ServerInfo

__all__ = ["AsyncStateBackend"]


_Result = TypeVar("_Result")
_AnyPool = AsyncConnectionPool | AsyncClusterPool


class _LoopPool(NamedTuple):
    """The pool of one event loop, and the generator that closes it with the loop."""

    pool: _AnyPool
    closing: AsyncGenerator[None, None]


_LoopPools = MutableMapping[asyncio.AbstractEventLoop, _LoopPool]


async def _closing(
    pools: _LoopPools, loop: asyncio.AbstractEventLoop, pool: _AnyPool
) -> AsyncGenerator[None, None]:
    """Wait until the loop ends: ``asyncio.run`` closes the generators that are under way."""
    try:
        yield
    finally:
        pools.pop(loop, None)
        await pool.close()


class AsyncStateBackend:
    """Keep values by key, as coroutines; ``RedisStateBackend.aio`` is one.

    Each method does the same as the one of ``StateBackend`` with its name and arguments. The
    statistics are shared with the blocking backend. Safe to share between the tasks of a loop, and
    between loops.
    """

    def __init__(
        self,
        config: RedisConfig,
        name: str,
        operations: Operations,
        health: HealthOperations,
        meter: Meter,
        retry_policy: RetryPolicy,
        checkpoints: Dumpable,
    ) -> None:
        self._config = config
        self._name = name
        self._operations = operations
        self._health = health
        self._meter = meter
        self._checkpoints = checkpoints
        self._pools: _LoopPools = {}
        self._driver = AsyncDriver(self._pool, retry_policy)

    def _pool(self) -> _AnyPool:
        loop = asyncio.get_running_loop()
        try:
            return self._pools[loop].pool
        except KeyError:
            return self._add_pool(loop)

    def _add_pool(self, loop: asyncio.AbstractEventLoop) -> _AnyPool:
        self._close_ended()
        make = AsyncClusterPool if self._config.cluster_mode else AsyncConnectionPool
        pool = make(self._config, self._name)
        closing = _closing(self._pools, loop, pool)
        with suppress(StopIteration):  # the generator has come to its yield
            closing.__anext__().send(None)
        self._pools[loop] = _LoopPool(pool, closing)
        return pool

    def _close_ended(self) -> None:
        """Close the connections of loops that ended without closing their generators."""
        for loop, held in list(self._pools.items()):
            if loop.is_closed():
                self._pools.pop(loop, None)
                held.pool.close_from_outside(ended=True)

    def close_all(self) -> None:
        """Close the connections of all loops that are not in use, from any thread."""
        self._close_ended()
        for held in list(self._pools.values()):
            held.pool.close_from_outside(ended=False)

    async def get(self, key: Key, default: Any = None) -> Any:
        """Read a value."""
        return await self._driver.run(self._operations.get(key, default))

    async def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value."""
        await self._driver.run(self._operations.put(key, value, ttl))

    async def put_with_ttl(self, key: Key, value: Any, ttl: timedelta) -> None:
        """Write a value that expires."""
        await self.put(key, value, ttl)

    async def delete(self, key: Key) -> bool:
        """Delete a value."""
        return await self._driver.run(self._operations.delete(key))

    async def contains(self, key: Key) -> bool:
        """Tell whether there is a value."""
        return await self._driver.run(self._operations.contains(key))

    async def list_keys(self, prefix: Key = "", *, unique: bool = False) -> AsyncIterator[Key]:
        """List keys."""
        pattern, cursor = self._operations.keys.pattern(prefix), -1
        seen: set[bytes] | None = set() if unique else None
        while cursor:
            page = self._operations.page(max(cursor, 0), pattern)
            cursor, found = await self._driver.run(page)
            for key in self._operations.named(found, seen):
                yield key

    async def keys(self, prefix: Key = "", *, unique: bool = False) -> AsyncIterator[Key]:
        """List keys; the same as :meth:`list_keys`."""
        async for key in self.list_keys(prefix, unique=unique):
            yield key

    async def values(self, prefix: Key = "", *, unique: bool = False) -> AsyncIterator[Any]:
        """List values."""
        async for _, value in self.items(prefix, unique=unique):
            yield value

    async def items(
        self, prefix: Key = "", *, unique: bool = False
    ) -> AsyncIterator[tuple[Key, Any]]:
        """List keys with their values."""
        page: list[Key] = []
        async for key in self.list_keys(prefix, unique=unique):
            page.append(key)
            if len(page) == PAGE:
                for item in (await self.batch_get(page)).items():
                    yield item
                page.clear()
        if page:
            for item in (await self.batch_get(page)).items():
                yield item

    async def count(self, prefix: Key = "", *, unique: bool = False) -> int:
        """Count keys."""
        return await self._driver.run(self._operations.count(prefix, unique=unique))

    async def clear(self, prefix: Key = "") -> int:
        """Delete keys."""
        return await self._driver.run(self._operations.clear(prefix))

    async def ttl(self, key: Key) -> timedelta | None:
        """Tell the time until a value expires."""
        return await self._driver.run(self._operations.ttl(key))

    async def expire(self, key: Key, ttl: timedelta) -> bool:
        """Let a value expire after a time."""
        return await self._driver.run(self._operations.expire(key, ttl))

    async def persist(self, key: Key) -> bool:
        """Let a value never expire."""
        return await self._driver.run(self._operations.persist(key))

    async def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Read many values."""
        return await self._driver.run(self._operations.batch_get(keys))

    async def batch_put(self, items: Mapping[Key, Any], ttl: timedelta | None = None) -> None:
        """Write many values."""
        await self._driver.run(self._operations.batch_put(items, ttl))

    async def batch_delete(self, keys: Iterable[Key]) -> int:
        """Delete many values."""
        return await self._driver.run(self._operations.batch_delete(keys))

    async def get_and_delete(self, key: Key, default: Any = None) -> Any:
        """Read a value and delete it."""
        return await self._driver.run(self._operations.get_and_delete(key, default))

    async def get_and_put(
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        """Write a value and return the value before."""
        return await self._driver.run(self._operations.get_and_put(key, value, ttl, default))

    async def set_if_not_exists(self, key: Key, value: Any, ttl: timedelta | None = None) -> bool:
        """Write a value if there is none."""
        return await self._driver.run(self._operations.set_if_not_exists(key, value, ttl))

    async def get_with_version(self, key: Key, default: Any = None) -> Versioned:
        """Read a value and its version."""
        return await self._driver.run(self._operations.get_with_version(key, default))

    async def compare_and_put(
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        """Write a value if it has not changed since it was read."""
        return await self._driver.run(
            self._operations.compare_and_put(key, value, expected_version, ttl)
        )

    async def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:
        """Add to an integer."""
        return await self._driver.run(self._operations.increment(key, by, ttl))

    def lock(
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> AsyncLock:
        """Make a lock, to be held by an ``async with`` block."""
        operations = LockOperations(self._operations.keys, name, ttl, wait)
        return AsyncLock(self._driver, operations, renew=renew)

    def transaction(self, tag: str | None = None) -> AsyncTransaction:
        """Begin a transaction, committed at the end of an ``async with`` block."""
        return AsyncTransaction(self._driver, TransactionOperations(self._operations, tag))

    async def transact(
        self,
        work: Callable[[AsyncTransaction], Awaitable[_Result]],
        *,
        tag: str | None = None,
        retry: int = 3,
    ) -> _Result:
        """Run a coroutine function in a transaction, and again after a conflict."""
        while True:
            try:
                async with self.transaction(tag) as tx:
                    return await work(tx)
            except ConflictError:
                if retry <= 0:
                    raise
                retry -= 1

    def stats(self) -> RedisStats:
        """Give the counts of what this backend has done, including blocking operations."""
        return self._meter.stats()

    def reset_stats(self) -> None:
        """Set all counts to zero."""
        self._meter.reset()

    async def health(self) -> Health:
        """Ask the server how it is."""
        return await self._driver.run(self._health.health())

    async def health_check(self) -> Health:
        """Ask the server how it is."""
        return await self.health()

    async def memory_usage(self, samples: int = 200) -> MemoryUsage:
        """Estimate how much of the server's memory this backend's keys take."""
        return await self._driver.run(self._health.memory_usage(samples))

    async def server_info(self) -> ServerInfo:
        """Tell the server's flavour, version, role and settings."""
        return await self._driver.run(self._health.server_info())

    async def checkpoint(
        self,
        to: PathOrFile | Dumpable,
        *,
        replace: bool = False,
        merge: bool = False,
        progress: OnProgress | bool = False,
    ) -> CheckpointInfo:
        """Take a checkpoint; in a thread, which goes on if the task is cancelled."""
        take = self._checkpoints.checkpoint
        return await asyncio.to_thread(take, to, replace=replace, merge=merge, progress=progress)

    async def restore(
        self,
        from_: PathOrFile | Dumpable,
        *,
        replace: bool = False,
        merge: bool = False,
        deadlines: bool = False,
        progress: OnProgress | bool = False,
    ) -> Restored:
        """Restore a checkpoint; in a thread, which goes on if the task is cancelled."""
        return await asyncio.to_thread(
            self._checkpoints.restore,
            from_,
            replace=replace,
            merge=merge,
            deadlines=deadlines,
            progress=progress,
        )

    async def verify(self, from_: PathOrFile) -> CheckpointInfo:
        """Check every byte of a checkpoint; in a thread."""
        return await asyncio.to_thread(self._checkpoints.verify, from_)

    async def unfinished_restore(self) -> UnfinishedRestore | None:
        """Tell whether a restore was begun and not finished; in a thread."""
        return await asyncio.to_thread(self._checkpoints.unfinished_restore)

    async def close(self) -> None:
        """Close the connections of the running loop, and those of loops that have ended."""
        self._close_ended()
        held = self._pools.get(asyncio.get_running_loop())
        if held is not None:
            await held.closing.aclose()

    async def __aenter__(self) -> AsyncStateBackend:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
