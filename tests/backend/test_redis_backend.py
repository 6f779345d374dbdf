"""What only a backend on a server does: keys as they are, connections, namespaces, other types."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bytewax_redis_state import RedisStateBackend
from bytewax_redis_state.errors import (
    ArgumentError,
    ConfigError,
    NotACounterError,
    ServerError,
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


def test_another_type_at_a_key_is_told_by_each_operation(backend, prefix):
    backend.client.hset(f"{prefix}hash", "a", 1)
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
    assert backend.client.hgetall(f"{prefix}hash") == {b"a": b"1"}


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


def test_closing_twice_does_nothing_and_work_goes_on(backend):
    backend.put("k", 1)
    backend.close()
    backend.close()
    assert backend.get("k") == 1
