"""What only a backend on a server does: keys as they are, connections, namespaces, other types."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import timedelta

import pytest

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.errors import (
    ArgumentError,
    ConfigError,
    NotACounterError,
    ServerError,
    ServerUnavailableError,
)
from bytewax_redis_state.keys import PrefixKeys, hash_tag_of, slot_of


def test_a_key_is_the_prefix_and_the_users_key_verbatim(backend):
    prefix = backend.config.key_prefix.encode()
    for key in ("k", "{tag}:k", b"\xff", "a:b"):
        backend.put(key, 1)
    found = sorted(backend.client.keys())
    assert found == sorted(prefix + k for k in (b"k", b"{tag}:k", b"\xff", b"a:b"))
    assert backend.client.get(prefix + b"k") == b"1"


def test_the_slot_is_that_of_the_users_tag():
    # Known slots, from the Redis Cluster specification.
    assert slot_of(b"123456789") == 12739
    assert hash_tag_of(b"state:{user1000}.following") == b"user1000"
    assert slot_of(b"a{user1000}b") == slot_of(b"user1000")
    assert (hash_tag_of(b"foo{}{bar}"), hash_tag_of(b"foo{{bar}}zap")) == (b"foo{}{bar}", b"{bar")


def test_a_key_above_512_mb_is_refused():
    class Huge(bytes):
        def __len__(self) -> int:
            return 512 * 1024 * 1024 + 1

        def __radd__(self, other: bytes) -> Huge:
            return self

    with pytest.raises(ArgumentError, match="512 MB"):
        PrefixKeys(b"p:").full(Huge(b"k"))


def test_another_type_at_a_key_is_told_by_each_operation(backend):
    backend.client.hset(backend.keys.full("hash"), "a", 1)
    calls = (
        lambda: backend.get("hash"),
        lambda: backend.batch_get(["a", "hash"]),
        lambda: backend.get_and_delete("hash"),
        lambda: backend.get_and_put("hash", 1),
        lambda: backend.compare_and_put("hash", 1, None),
        lambda: backend.get_with_version("hash"),
        lambda: backend.transact(lambda tx: tx.get("hash")),
    )
    for call in calls:
        with pytest.raises(ServerError, match="WRONGTYPE"):
            call()
    with pytest.raises(NotACounterError, match="'hash'"):
        backend.increment("hash")
    assert backend.contains("hash")
    assert backend.client.hgetall(backend.keys.full("hash")) == {b"a": b"1"}


def test_batches_go_in_few_trips(backend):
    items = {f"k{n}": n for n in range(2500)}
    backend.put_with_ttl("k", 1, timedelta(minutes=1))
    backend.batch_put({"k": 1}, ttl=timedelta(minutes=1))  # the script is known from now on
    backend.reset_stats()
    sent = backend.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    backend.batch_put(items)
    backend.batch_put(items, ttl=timedelta(minutes=1))
    backend.batch_get(items)
    stats = backend.stats()
    assert (stats.batches, stats.pipelines) == (9, 9)
    assert backend.client.info("commandstats")["cmdstat_evalsha"]["calls"] - sent == 25


# --- namespaces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("a:", "a:b:"), ("a:b:", "a:"), ("app", "app2")])
def test_a_prefix_inside_another_live_one_is_refused(redis_url, one, other):
    first = RedisStateBackend.from_url(redis_url, key_prefix=one, pool_min=1)
    first.put("k", 1)
    with pytest.raises(ConfigError) as caught:
        RedisStateBackend.from_url(redis_url, key_prefix=other, pool_min=1)
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)
    first.close()
    with RedisStateBackend.from_url(redis_url, key_prefix=other, pool_min=1):
        pass


def test_prefixes_that_only_look_alike_are_apart(redis_url):
    stores = [
        RedisStateBackend.from_url(redis_url, key_prefix=p, pool_min=1)
        for p in ("a:", "ab:", "A:", "a:")
    ]
    stores[0].put("k", 1)
    stores[1].put("k", 2)
    assert [s.get("k") for s in stores] == [1, 2, None, 1]
    assert [s.count() for s in stores] == [1, 1, 0, 1]
    assert stores[0].clear() == 1
    assert stores[1].get("k") == 2
    for store in stores:
        store.close()


def test_a_backend_that_was_dropped_does_not_stand_in_the_way(redis_url):
    RedisStateBackend.from_url(redis_url, key_prefix="a:", pool_min=1).put("k", 1)
    RedisStateBackend.from_url(redis_url, key_prefix="a:b:", pool_min=1).close()


def test_an_overlap_can_be_asked_for(redis_url):
    with (
        RedisStateBackend.from_url(redis_url, key_prefix="a:", pool_min=1) as outer,
        RedisStateBackend.from_url(
            redis_url, key_prefix="a:b:", pool_min=1, allow_overlap=True
        ) as inner,
    ):
        inner.put("k", 1)
        assert list(outer.list_keys()) == ["b:k"]


def test_another_database_is_another_matter(redis_server):
    base = f"redis://127.0.0.1:{redis_server.port}"
    with (
        RedisStateBackend.from_url(f"{base}/1022", key_prefix="zz:", pool_min=1),
        RedisStateBackend.from_url(f"{base}/1023", key_prefix="zz:a:", pool_min=1),
    ):
        pass


# --- connections ---------------------------------------------------------------------------------


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
        taken = backend._wire._take()
        with pytest.raises(ServerUnavailableError, match="pool_max"):
            backend.get("k")
        threading.Timer(0.05, backend._wire._give_back, (taken,)).start()
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


def test_closing_twice_does_nothing_and_work_goes_on(backend):
    backend.put("k", 1)
    backend.close()
    backend.close()
    assert backend.get("k") == 1


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
