"""What a server is, asked of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerUnfitError
from bytewax_redis_state.server.binary import major_version
from bytewax_redis_state.server.client import Client, connect
from bytewax_redis_state.server.probe import ServerInfo, probe, require_fit


@pytest.fixture
def probed(start_redis: Callable[..., Any]) -> Iterator[Callable[..., ServerInfo]]:
    clients: list[Client] = []

    def start_and_probe(*options: str, **kwargs: Any) -> ServerInfo:
        clients.append(connect(RedisConfig(url=start_redis(*options, **kwargs).url)))
        return probe(clients[-1])

    yield start_and_probe
    for client in clients:
        client.close()


def test_a_server_as_it_should_be_is_fit_without_warnings(
    client: Client, redis_url: str, server_binary: Path
) -> None:
    info = probe(client)

    assert info.address == RedisConfig(url=redis_url).address
    assert info.version[0] == major_version(server_binary)
    assert (info.mode, info.role) == ("standalone", "master")
    assert (info.maxmemory, info.maxmemory_policy) == (0, "noeviction")
    assert info.aof_enabled
    assert not info.loading
    assert info.used_memory > 0
    assert info.connected_clients >= 1
    assert require_fit(info) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_evicts_any_key_is_refused(
    probed: Callable[..., ServerInfo], policy: str
) -> None:
    info = probed("--maxmemory-policy", policy, "--maxmemory", "100mb")
    assert info.maxmemory == 100 * 1024 * 1024
    with pytest.raises(ServerUnfitError, match="CONFIG SET maxmemory-policy noeviction") as caught:
        require_fit(info)
    assert policy in str(caught.value)


def test_a_server_that_evicts_keys_with_a_ttl_is_warned_of(
    probed: Callable[..., ServerInfo],
) -> None:
    (warning,) = require_fit(probed("--maxmemory-policy", "volatile-ttl"))
    assert "volatile-ttl" in warning
    assert "\n" not in warning


def test_a_server_that_persists_nothing_is_warned_of(probed: Callable[..., ServerInfo]) -> None:
    (warning,) = require_fit(probed("--appendonly", "no"))
    assert "all state" in warning
    assert "CONFIG SET appendonly yes" in warning


def test_a_server_with_snapshots_only_is_warned_of(
    start_redis: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    client = connect(RedisConfig(url=start_redis("--appendonly", "no").url))
    client.bgsave()
    eventually(lambda: probe(client).snapshot_taken)
    (warning,) = require_fit(probe(client))
    assert "last snapshot" in warning
    client.close()


def test_a_replica_is_refused(probed: Callable[..., ServerInfo], start_redis: Any) -> None:
    primary = start_redis()
    info = probed("--replicaof", f"127.0.0.1 {primary.port}")
    assert info.role == "slave"
    with pytest.raises(ServerUnfitError, match=r"replica.*primary"):
        require_fit(info)


def test_redis_6_2_is_the_oldest_that_is_fit(
    probed: Callable[..., ServerInfo], redis_62: Path
) -> None:
    info = probed(binary=redis_62)
    assert info.name.startswith("Redis 6.2.")
    assert require_fit(info) == []
    with pytest.raises(ServerUnfitError, match=r"Redis 6\.0\.20.*6\.2 or newer"):
        require_fit(replace(info, version=(6, 0, 20)))


def test_valkey_is_told_apart(probed: Callable[..., ServerInfo], valkey: Path) -> None:
    info = probed(binary=valkey)
    assert info.flavour == "valkey"
    assert info.version[0] == major_version(valkey)
    assert require_fit(info) == []


def test_a_sentinel_is_refused(client: Client) -> None:
    with pytest.raises(ServerUnfitError, match="Sentinel"):
        require_fit(replace(probe(client), mode="sentinel"))
