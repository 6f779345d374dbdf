"""How many connections a backend opens, and what becomes of one that breaks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import timedelta

import pytest

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.errors import ServerUnavailableError


def connections(backend: RedisStateBackend) -> int:
    name = f"bytewax-redis-state/{backend.config.key_prefix}"
    return sum(client["name"] == name for client in backend.client.client_list())


def test_the_least_connections_are_open_from_the_start(redis_url, prefix):
    with RedisStateBackend.from_url(redis_url, key_prefix=prefix, pool_min=4) as backend:
        assert connections(backend) == 4
        backend.put("k", 1)
        assert connections(backend) == 4


def test_there_are_never_more_than_the_most(redis_url, prefix):
    with RedisStateBackend.from_url(
        redis_url, key_prefix=prefix, pool_min=1, pool_max=3
    ) as backend:
        threads = [
            threading.Thread(target=lambda: [backend.increment("n") for _ in range(50)])
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert backend.get("n") == 600
        assert connections(backend) <= 3


def test_coroutines_share_no_more_than_the_most(redis_url, prefix):
    with RedisStateBackend.from_url(
        redis_url, key_prefix=prefix, pool_min=1, pool_max=3
    ) as backend:

        async def main() -> int:
            async with backend.aio as aio:
                await asyncio.gather(*[aio.increment("n") for _ in range(200)])
                return connections(backend)

        assert asyncio.run(main()) <= 4
        assert asyncio.run(main()) <= 4  # another loop, other connections
        assert backend.get("n") == 400


def test_a_cancelled_coroutine_leaves_no_reply_behind(backend):
    async def main() -> None:
        async with backend.aio as aio:
            await aio.batch_put({f"k{n}": n for n in range(300)})
            for delay in range(30):
                task = asyncio.create_task(aio.get(f"k{delay}"))
                await asyncio.sleep(delay / 20_000)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await aio.get(f"k{delay + 100}") == delay + 100

    asyncio.run(main())


def test_a_full_pool_is_told_and_mended_by_waiting(redis_url, prefix):
    config = RedisConfig(
        url=redis_url, key_prefix=prefix, pool_min=1, pool_max=1, retry_attempts=0,
        connect_timeout=timedelta(milliseconds=100),
    )  # fmt: skip
    with RedisStateBackend(config) as backend:
        taken = backend._pool._take()
        with pytest.raises(ServerUnavailableError, match="pool_max"):
            backend.get("k")
        threading.Timer(0.05, backend._pool._give_back, (taken,)).start()
        assert backend.get("k", 7) == 7


def test_a_forked_child_makes_connections_of_its_own(backend):
    backend.put("k", 1)
    child = os.fork()
    if child == 0:
        ok = all(backend.increment("n") for _ in range(100)) and backend.get("k") == 1
        os._exit(0 if ok else 1)
    for _ in range(100):
        backend.increment("n")
    assert os.waitpid(child, 0)[1] == 0
    assert backend.get("n") == 200


def test_connections_that_the_server_closed_are_replaced_unnoticed(backend):
    backend.increment("n")
    for client in backend.client.client_list():
        if client["name"].startswith("bytewax-redis-state/"):
            backend.client.client_kill_filter(_id=client["id"])
    time.sleep(0.05)
    assert backend.increment("n") == 2
    assert backend.stats().retries == 0


def connections_to(backend):
    """Connections to the server, without the one that asks."""
    return len(backend.client.client_list()) - 1


def test_the_least_connections_are_opened_up_front_and_no_more(start_redis):
    config = RedisConfig(url=start_redis().url, pool_min=7, pool_max=9)
    with RedisStateBackend(config) as backend:
        assert connections_to(backend) == 7
        for number in range(20):
            backend.put("k", number)
        assert connections_to(backend) == 7


def test_as_many_connections_as_there_may_be_can_be_opened_up_front(redis_url):
    with RedisStateBackend(RedisConfig(url=redis_url, pool_min=4, pool_max=4)) as backend:
        backend.put("k", 1)
        assert backend.get("k") == 1


def test_a_server_that_takes_no_more_connections_is_unavailable(start_redis):
    url = start_redis("--maxclients", "3").url
    with pytest.raises(ServerUnavailableError, match="max number of clients"):
        RedisStateBackend.from_url(url, pool_min=5)
