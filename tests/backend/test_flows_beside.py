"""A state backend and a flow on one server: neither reaches into the keys of the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bytewax_redis_state import MemoryStateBackend, RedisConfig, RedisStateBackend
from bytewax_redis_state.errors import ArgumentError, ConfigError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import Client
from tests.run.conftest import Runner


def keys_of(client: Client) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Iterator[Runner]:
    with Runner(redis_url, tmp_path) as runner:
        yield runner


@pytest.mark.parametrize(
    "prefix", ["bytewax:", "bytewax:{", "bytewax:{numbers}:", "bytewax:{numbers/s", "byte", "b"]
)
def test_a_prefix_that_reaches_into_the_namespace_of_flows_is_refused(redis_url, prefix):
    for make in (
        lambda: RedisStateBackend.from_url(redis_url, key_prefix=prefix, allow_overlap=True),
        lambda: MemoryStateBackend(RedisConfig(key_prefix=prefix)),
    ):
        with pytest.raises(ConfigError, match="reaches into the namespace 'bytewax'") as caught:
            make()
        assert repr(prefix) in str(caught.value)


def test_a_prefix_among_the_locks_of_a_backend_is_refused(redis_url):
    with pytest.raises(ConfigError, match="lies among the locks of a state backend"):
        RedisStateBackend.from_url(redis_url, key_prefix="app:__bytewax__:lock:")


def test_prefixes_beside_the_namespace_of_flows_are_taken(redis_url):
    for prefix in ("bytewax:users:", "bytewaxes:", "BYTEWAX:", "state:"):
        RedisStateBackend.from_url(redis_url, key_prefix=prefix, pool_min=1).close()


@pytest.mark.parametrize("prefix", ["shop:", "sh", "shop:{numbers}:"])
def test_a_flow_that_does_not_run_is_found_by_its_keys(run, client, redis_url, prefix):
    assert run("--namespace", "shop").returncode == 0
    before = keys_of(client)
    with pytest.raises(ConfigError, match="flow 'numbers' keeps its state on this server") as error:
        RedisStateBackend.from_url(redis_url, key_prefix=prefix)
    assert "namespace 'shop'" in str(error.value)
    assert keys_of(client) == before


def test_a_backend_leaves_all_keys_of_a_flow_alone(run, client, redis_url, tmp_path):
    assert run("--namespace", "shop").returncode == 0
    before = keys_of(client)
    with RedisStateBackend.from_url(redis_url, key_prefix="shop:", allow_overlap=True) as backend:
        backend.put("cart", 1)
        assert list(backend.keys()) == ["cart"]
        assert backend.count() == 1
        assert backend.memory_usage().keys == 1
        assert backend.checkpoint(tmp_path / "dump").counts.records == 1
        backend.restore(tmp_path / "dump", replace=True)
        assert backend.clear() == 1
        assert backend.clear("{numbers") == 0
    assert keys_of(client) == before
    assert run("--namespace", "shop").returncode == 0


def test_a_backend_leaves_the_locks_of_another_one_alone(redis_url, client):
    with (
        RedisStateBackend.from_url(redis_url, key_prefix="a:", pool_min=1) as outer,
        RedisStateBackend.from_url(redis_url, key_prefix="a:b:", allow_overlap=True) as inner,
        inner.lock("x") as lock,
    ):
        assert list(outer.keys()) == []
        assert outer.count() == outer.clear() == 0
        lock.check()
        assert client.keys() == [b"a:b:__bytewax__:lock:x"]
        with pytest.raises(ArgumentError, match="'__bytewax__:', which is reserved"):
            outer.delete("b:__bytewax__:lock:x")


def test_no_user_key_takes_the_form_of_a_flows_key(redis_url):
    with RedisStateBackend.from_url(redis_url, key_prefix="shop:", pool_min=1) as backend:
        flow = FlowKeys("shop", "orders")
        for full in (
            *(flow.generation, flow.manifest, flow.lease(0), flow.journal(0, 3)),
            *(flow.progress(0, 3), flow.applied("sum", 7), flow.state("sum", 7, "k")),
        ):
            key = full[len("shop:") :]
            with pytest.raises(ArgumentError, match="flow 'orders' in the namespace 'shop'"):
                backend.put(key, 1)
            with pytest.raises(ArgumentError, match="'app:x:'"):
                backend.batch_delete([b"a", key])
            with RedisStateBackend.from_url(redis_url, key_prefix="app:x:", pool_min=1) as other:
                other.put(key, 1)  # what the hint says
                assert other.clear() == 1
        backend.put("{orders}:cart", 1)
        backend.batch_put({"{orders}:cart": 2, "{orders}:x": 3})
        assert sorted(backend.keys()) == ["{orders}:cart", "{orders}:x"]


@pytest.mark.parametrize("prefix", ["shop:", "sho", "shop:{numbers}:"])
def test_a_flow_that_runs_is_found_in_a_large_database(run, redis_url, prefix, client, eventually):
    running = run.start("--namespace", "shop", ITEMS="100000")
    eventually(lambda: client.exists(FlowKeys("shop", "numbers").manifest))
    # A search through the first keys would not find it: its connections tell of it.
    client.mset({f"filler:{n}": n for n in range(200_000)})
    with pytest.raises(ConfigError, match="reaches into the namespace 'shop'"):
        RedisStateBackend.from_url(redis_url, key_prefix=prefix)
    running.terminate()
    running.wait()


def test_a_flow_may_start_beside_a_backend_that_leaves_its_keys_alone(run, redis_url, client):
    with RedisStateBackend.from_url(redis_url, key_prefix="shop:", pool_min=1) as backend:
        assert run("--namespace", "shop").returncode == 0
        before = keys_of(client)
        assert (backend.count(), backend.clear()) == (0, 0)
    assert keys_of(client) == before
