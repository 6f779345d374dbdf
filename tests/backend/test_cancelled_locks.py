"""A task that is cancelled while it takes a lock, or gives it back, leaves the lock free."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from bytewax_redis_state import MemoryStateBackend, RedisConfig, RedisStateBackend

LONG = timedelta(minutes=10)  # a lock that was not given back would block the test until then


@pytest.fixture(params=["redis", "memory"])
def aio(request, prefix):
    config = RedisConfig(key_prefix=prefix, pool_min=1)
    if request.param == "memory":
        yield MemoryStateBackend(config).aio
        return
    url = request.getfixturevalue("redis_url")
    with RedisStateBackend(RedisConfig(url=url, key_prefix=prefix, pool_min=1)) as backend:
        yield backend.aio


async def cancelled(work, steps: int) -> None:
    task = asyncio.create_task(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def is_free(aio, name: str) -> bool:
    async with aio.lock(name, LONG, wait=timedelta(seconds=5)):
        return True


@pytest.mark.parametrize("renew", [True, False])
def test_a_lock_is_free_after_a_cancelled_acquire(aio, renew):
    async def main() -> None:
        for steps in range(40):
            lock = aio.lock("x", LONG, renew=renew)
            await cancelled(lock.acquire(), steps)
            if lock.held:  # it was granted before the task was cancelled
                await lock.release()
            assert await is_free(aio, "x"), steps

    asyncio.run(main())


def test_a_lock_is_free_after_a_cancelled_release(aio):
    async def main() -> None:
        for steps in range(40):
            lock = aio.lock("x", LONG)
            await lock.acquire()
            await cancelled(lock.release(), steps)
            if lock.held:  # the task was cancelled before it began
                await lock.release()
            assert await is_free(aio, "x"), steps

    asyncio.run(main())


def test_a_cancelled_task_no_longer_waits_for_a_lock(aio):
    async def main() -> None:
        async with aio.lock("x", LONG):
            waiting = asyncio.create_task(aio.lock("x", LONG).acquire())
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(waiting, 60)
        assert await is_free(aio, "x")

    asyncio.run(main())


def test_a_timeout_of_an_acquire_leaves_the_lock_usable(aio):
    async def main() -> None:
        lock = aio.lock("x", LONG)
        async with aio.lock("x", LONG):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lock.acquire(), 0.2)
        async with lock:
            assert lock.held

    asyncio.run(main())
