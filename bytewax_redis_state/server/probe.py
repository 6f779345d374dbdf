"""Read from ``INFO`` what a server is, and check whether it can keep a flow's state.

Invariant: no ``CONFIG``, which managed servers forbid, and no write: a check changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.errors import ServerUnfitError
from bytewax_redis_state.server.client import Client, address_of, servers_of
from bytewax_redis_state.server.translation import translated

__all__ = [
    "OLDEST",
    "ServerInfo",
    "probe",
    "probe_all",
    "read_info",
    "require_durability",
    "require_fit",
]

OLDEST = (6, 2)
"""The oldest version of Redis that has all commands that we use."""

_OLDEST_WAITAOF = (7, 2)
_NO_EVICTION = "CONFIG SET maxmemory-policy noeviction"


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """The facts of a server that ``INFO`` shows.

    :arg address: Its address, without secrets.
    :arg flavour: ``redis`` (also for other servers that call themselves Redis) or ``valkey``.
    :arg version: Of that flavour, as ``(major, minor, patch)``.
    :arg mode: ``standalone``, ``cluster`` or ``sentinel``.
    :arg role: ``master`` or ``slave``, in the server's words.
    :arg maxmemory: Bytes; 0 is no limit.
    :arg maxmemory_policy: Its eviction policy.
    :arg used_memory: Bytes in use.
    :arg aof_enabled: Whether it writes an append-only file.
    :arg snapshot_taken: Whether it has saved an RDB file since its start; ``INFO`` does not show
        whether it is configured to do so.
    :arg connected_replicas: Number of its replicas.
    :arg loading: Whether it is still reading its files.
    :arg connected_clients: Connections, this one included.
    :arg uptime_seconds: Time since its start.
    """

    address: str
    flavour: Literal["redis", "valkey"]
    version: tuple[int, int, int]
    mode: str
    role: str
    maxmemory: int
    maxmemory_policy: str
    used_memory: int
    aof_enabled: bool
    snapshot_taken: bool
    connected_replicas: int
    loading: bool
    connected_clients: int
    uptime_seconds: int

    @property
    def name(self) -> str:
        """Flavour and version, such as ``Redis 7.4.1``."""
        return f"{self.flavour.capitalize()} {'.'.join(map(str, self.version))}"


def _version(text: str) -> tuple[int, int, int]:
    numbers = [int(n) for n in re.findall(r"\d+", text)[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def read_info(address: str, info: Mapping[str, Any]) -> ServerInfo:
    """Take the facts that we use from ``INFO``.

    :arg address: Address of the server, without secrets.
    :arg info: The answer to ``INFO``, by name.
    :returns: The facts.
    """
    valkey = "valkey_version" in info
    return ServerInfo(
        address=address,
        flavour="valkey" if valkey else "redis",
        version=_version(str(info["valkey_version" if valkey else "redis_version"])),
        mode=str(info.get("redis_mode") or info.get("server_mode") or "standalone"),
        role=str(info.get("role", "master")),
        maxmemory=int(info.get("maxmemory", 0)),
        maxmemory_policy=str(info.get("maxmemory_policy", "noeviction")),
        used_memory=int(info.get("used_memory", 0)),
        aof_enabled=bool(info.get("aof_enabled", 0)),
        snapshot_taken=info.get("rdb_last_bgsave_time_sec", -1) >= 0
        or info.get("rdb_saves", 0) > 0,
        connected_replicas=int(info.get("connected_slaves", 0)),
        loading=bool(info.get("loading", 0)),
        connected_clients=int(info.get("connected_clients", 0)),
        uptime_seconds=int(info.get("uptime_in_seconds", 0)),
    )


def probe(client: Client) -> ServerInfo:
    """Read ``INFO`` of a server.

    :arg client: A client of the server.
    :returns: The facts of the server.
    :raises ServerError: If the server does not answer.
    """
    address = address_of(client)
    with translated(address):
        return read_info(address, client.info())


def probe_all(client: Client) -> list[ServerInfo]:
    """Read ``INFO`` of each server that takes writes: the one, or all primaries of a cluster.

    :arg client: A client of the server or the cluster.
    :returns: The facts of each.
    :raises ServerError: If one does not answer.
    """
    with translated(address_of(client)):
        servers = servers_of(client)
    return [probe(server) for server in servers]


def _refusal(info: ServerInfo) -> tuple[str, str] | None:
    if info.mode == "sentinel":
        return "is a Sentinel", "write the URL as redis+sentinel://…, or give the primary's URL"
    if info.version[:2] < OLDEST:
        return f"is {info.name}", "use Redis 6.2 or newer, or Valkey"
    if info.role != "master":
        return "is a replica", "give the URL of the primary"
    if info.maxmemory_policy.startswith("allkeys-"):
        return (
            f"has maxmemory-policy {info.maxmemory_policy}: it may evict any key of a flow",
            f"set noeviction: {_NO_EVICTION}",
        )
    return None


def _persistence_warning(info: ServerInfo) -> str | None:
    if info.aof_enabled:
        return None
    lost = "all writes after its last snapshot" if info.snapshot_taken else "all state"
    return (
        f"Redis at {info.address} writes no append-only file, so it loses {lost} when it crashes; "
        "turn the file on: CONFIG SET appendonly yes"
    )


def _policy_warning(info: ServerInfo) -> str | None:
    if info.maxmemory_policy == "noeviction":
        return None
    return (
        f"Redis at {info.address} has maxmemory-policy {info.maxmemory_policy}, so it may evict "
        f"state that has a retention; set noeviction: {_NO_EVICTION}"
    )


def require_durability(info: ServerInfo, durability: Durability) -> None:
    """Refuse a server that can't give the durability of the settings.

    :arg info: The facts of the server.
    :arg durability: The durability of the settings.
    :raises ServerUnfitError: If it can't; says what it lacks.
    """
    where = f"durability is {durability}, but Redis at {info.address}"
    if durability.level == "aof":
        if info.version[:2] < _OLDEST_WAITAOF:
            raise ServerUnfitError(
                f"{where} is {info.name}",
                "use Redis 7.2 or newer, or Valkey, or choose another durability",
            )
        if not info.aof_enabled:
            raise ServerUnfitError(
                f"{where} writes no append-only file", "turn it on: CONFIG SET appendonly yes"
            )
    if info.connected_replicas < durability.replicas:
        raise ServerUnfitError(
            f"{where} has {info.connected_replicas} replicas",
            "start the replicas first, or choose another durability",
        )


def require_fit(info: ServerInfo) -> list[str]:
    """Refuse a server that can't keep state, and warn of one that may lose some.

    :arg info: The facts of the server.
    :returns: Warnings, one line each; empty if there is nothing to warn of.
    :raises ServerUnfitError: If it is too old, a replica or a Sentinel, or may evict any key.
    """
    refusal = _refusal(info)
    if refusal:
        raise ServerUnfitError(f"Redis at {info.address} {refusal[0]}", refusal[1])
    warnings = _policy_warning(info), _persistence_warning(info)
    return [warning for warning in warnings if warning]
