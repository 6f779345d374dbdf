"""Locks on Redis: the life of their keys, and of their renewal."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from bytewax_redis_state.backend.lock_operations import LOCK_LIFE
from bytewax_redis_state.keys import PrefixKeys


@pytest.fixture
def lock_key(prefix) -> bytes:
    """The Redis key of the lock "x"."""
    return PrefixKeys(prefix.encode()).lock("x")


def life_left(backend, key: bytes) -> timedelta:
    return timedelta(milliseconds=backend.client.pttl(key))


def test_the_key_of_a_lock_that_nobody_takes_again_goes_after_its_life(backend, lock_key):
    ttl = timedelta(hours=1)
    with backend.lock("x", ttl=ttl, renew=False):
        assert LOCK_LIFE < life_left(backend, lock_key) <= LOCK_LIFE + ttl
    assert timedelta(0) < life_left(backend, lock_key) <= LOCK_LIFE


def test_a_renewal_gives_the_key_its_whole_life_again(backend, lock_key):
    lock = backend.lock("x", ttl=timedelta(hours=1), renew=False)
    lock.acquire()
    backend.client.pexpire(lock_key, 60_000)
    assert lock._renew_once(lock._owner)
    assert life_left(backend, lock_key) > LOCK_LIFE
    lock.release()


def test_tokens_grow_also_after_the_key_has_gone(backend, lock_key):
    tokens = []
    for _ in range(3):
        for _ in range(2):
            with backend.lock("x") as lock:
                tokens.append(lock.token)
        assert backend.client.delete(lock_key) == 1  # as Redis does after its life
    assert tokens == sorted(set(tokens))
    assert tokens[1] == tokens[0] + 1


def test_the_token_of_a_lock_without_a_life_goes_on(backend, lock_key):
    backend.client.hset(lock_key, mapping={"token": 7, "released": "somebody"})
    with backend.lock("x") as lock:
        assert lock.token == 8
    assert life_left(backend, lock_key) <= LOCK_LIFE


def test_an_async_lock_is_given_back_also_while_it_is_being_renewed(backend):
    async def hold(lock, seconds: float) -> None:
        async with lock:
            await asyncio.sleep(seconds)

    async def main() -> None:
        async with backend.aio as aio:
            for tenth in range(150):  # The first renewal is due after 20 ms.
                lock = aio.lock("x", ttl=timedelta(milliseconds=60))
                await asyncio.wait_for(hold(lock, 0.019 + tenth % 30 / 10_000), 5)

    asyncio.run(main())


def test_an_async_lock_that_was_dropped_runs_out(backend):
    async def main() -> None:
        async with backend.aio as aio:
            lock = aio.lock("x", ttl=timedelta(milliseconds=60))
            await lock.acquire()
            del lock
            async with aio.lock("x", wait=timedelta(seconds=5)):
                pass

    asyncio.run(main())
