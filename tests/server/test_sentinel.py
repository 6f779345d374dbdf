"""Sentinels: a client finds the primary, follows it, and never writes to one that was."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import redis

from bytewax_redis_state import RedisStateBackend
from bytewax_redis_state.chaos.servers.node import wait_until
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.server.client import address_of, connect


def test_a_client_follows_the_primary_through_an_ordered_failover_and_a_crash(start_group):
    """The old primary of an ordered failover takes writes for seconds, which are then lost."""
    group = start_group("sentinel")
    config = RedisConfig(url=f"{group.url}/3")
    with connect(config) as client, RedisStateBackend(config) as backend:
        assert address_of(client) == config.address == f"{group.url}/3"
        client.set("n", 1)
        backend.put("k", 1)
        asyncio.run(backend.aio.put("l", 1))
        before = group.primary
        group.fail_over(before)
        now = group.wait_failed_over(before)
        wait_until(lambda: client.set("n", 2) and _get(now, "n") == b"2", "writes go there")
        backend.put("k", 2)
        assert _get(now, "state:k") == b"2"
        assert before.role in ("master", "slave")
        group.wait_recovered()
        now.kill()
        with pytest.raises(ServerUnavailableError):
            connect(config)
        wait_until(lambda: client.incr("n"), "another primary")
        assert client.get("n") == b"3"
        assert backend.get("k") == 2
        assert asyncio.run(backend.aio.get("k")) == 2


def test_a_connection_to_a_server_that_became_a_replica_is_left(start_group):
    group = start_group("sentinel", sentinels=1, replicas=1, down_after=30_000)
    config = RedisConfig(url=group.url, connect_timeout=timedelta(seconds=1))
    with connect(config) as client:
        client.set("n", 1)
        client.connection_pool.connection_kwargs["primary"]._due = float("inf")  # asks no more
        first, second = group.nodes
        first.client.execute_command("REPLICAOF", "127.0.0.1", second.port)
        with pytest.raises(redis.RedisError):
            client.set("n", 2)
        # What it connects to next says that it is no primary: the Sentinel has not noticed yet.
        with pytest.raises(redis.ConnectionError, match="is not a primary but a 'slave'"):
            client.get("n")


def test_no_sentinel_that_answers_is_our_error(free_port):
    config = RedisConfig(url=f"redis+sentinel://127.0.0.1:{free_port}/home")
    with pytest.raises(ServerUnavailableError, match="No master found for 'home'"):
        connect(config)


def _get(server, key):
    with redis.Redis(port=server.port, db=3) as there:
        return there.get(key)
