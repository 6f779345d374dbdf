"""How a server is, and how much of its memory a backend's keys take.

Invariant: only ``PING``, ``INFO``, ``SCAN`` and ``MEMORY USAGE`` are sent, because managed servers
allow these.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from bytewax_redis_state.backend.generator import CommandGenerator
from bytewax_redis_state.backend.operation import operation
from bytewax_redis_state.backend.operations import Operations
from bytewax_redis_state.server.probe import ServerInfo, read_info

__all__ = ["Health", "HealthOperations", "MemoryUsage"]


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a server is.

    :arg healthy: Whether it takes writes: it is a primary, has loaded, and its last write of an
        append-only file or a snapshot did not fail.
    :arg ping: How long the server takes to answer.
    :arg role: ``master`` or ``slave``, in the server's words.
    :arg version: Flavour and version.
    :arg used_memory: Bytes in use.
    :arg max_memory: Bytes; 0 is no limit.
    :arg eviction_policy: What the server does when its memory is full.
    :arg append_only: Whether the server writes an append-only file.
    :arg persistence_ok: Whether its last write of an append-only file or snapshot went well.
    :arg changes_since_save: Writes since its last snapshot.
    :arg replicas: How many replicas the server has.
    :arg replication_lag: Bytes that the slowest replica is behind; ``None`` without replicas.
    """

    healthy: bool
    ping: timedelta
    role: str
    version: str
    used_memory: int
    max_memory: int
    eviction_policy: str
    append_only: bool
    persistence_ok: bool
    changes_since_save: int
    replicas: int
    replication_lag: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryUsage:
    """How much of the server's memory a backend's keys take.

    :arg keys: The number of keys.
    :arg sampled: How many of them were measured.
    :arg namespace_bytes: An estimate for all keys, from those that were measured.
    :arg server_bytes: The memory that the server uses.
    :arg server_peak_bytes: The most that the server ever used.
    :arg server_max_bytes: The most that the server may use; 0 is no limit.
    :arg fragmentation: Memory taken from the operating system, divided by memory in use.
    """

    keys: int
    sampled: int
    namespace_bytes: int
    server_bytes: int
    server_peak_bytes: int
    server_max_bytes: int
    fragmentation: float


class HealthOperations:
    """Describe the operations that ask how a server is.

    :arg operations: The other operations of the backend.
    :arg address: Where the server is, without secrets.
    """

    def __init__(self, operations: Operations, address: str) -> None:
        self._operations = operations
        self._address = address

    @operation("health", idempotent=True)
    def health(self) -> CommandGenerator[Health]:
        """Ask how the server is."""
        started = time.perf_counter()
        yield [("PING",)]
        ping = timedelta(seconds=time.perf_counter() - started)
        (text,) = yield [("INFO",)]
        info = parse_info(text)
        server = read_info(self._address, info)
        written = info.get("aof_last_write_status", "ok") == "ok"
        sound = written and info.get("rdb_last_bgsave_status", "ok") == "ok"
        return Health(
            healthy=server.role == "master" and not server.loading and sound,
            ping=ping,
            role=server.role,
            version=server.name,
            used_memory=server.used_memory,
            max_memory=server.maxmemory,
            eviction_policy=server.maxmemory_policy,
            append_only=server.aof_enabled,
            persistence_ok=sound,
            changes_since_save=int(info.get("rdb_changes_since_last_save", 0)),
            replicas=int(info.get("connected_slaves", 0)),
            replication_lag=_lag(info),
        )

    @operation("server_info", idempotent=True)
    def server_info(self) -> CommandGenerator[ServerInfo]:
        """Ask what the server is."""
        (text,) = yield [("INFO",)]
        return read_info(self._address, parse_info(text))

    @operation("memory_usage", idempotent=True)
    def memory_usage(self, samples: int) -> CommandGenerator[MemoryUsage]:
        """Count all keys, and measure some."""
        pattern, cursor, number = self._operations.keys.pattern(), -1, 0
        chosen: list[bytes] = []
        while cursor:
            page = self._operations.page(max(cursor, 0), pattern)
            cursor, found = yield from page.generator
            number += len(found)
            chosen += found[: samples - len(chosen)]
        sizes: list[int | None] = []
        if chosen:
            sizes = yield [("MEMORY", "USAGE", key) for key in chosen]
        measured = [size for size in sizes if size is not None]
        (text,) = yield [("INFO", "memory")]
        info = parse_info(text)
        mean = sum(measured) / len(measured) if measured else 0
        return MemoryUsage(
            keys=number,
            sampled=len(measured),
            namespace_bytes=round(mean * number),
            server_bytes=int(info.get("used_memory", 0)),
            server_peak_bytes=int(info.get("used_memory_peak", 0)),
            server_max_bytes=int(info.get("maxmemory", 0)),
            fragmentation=float(info.get("mem_fragmentation_ratio", 0)),
        )


def parse_info(text: bytes) -> dict[str, int | str]:
    """Parse the reply to ``INFO``; integers become ``int``."""
    info: dict[str, int | str] = {}
    for line in text.decode(errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and not name.startswith("#"):
            info[name] = int(value) if value.lstrip("-").isdecimal() else value
    return info


def _lag(info: dict[str, int | str]) -> int | None:
    """Tell how many bytes the slowest replica is behind; ``None`` without replicas."""
    here = int(info.get("master_repl_offset", 0))
    there = []
    for number in range(int(info.get("connected_slaves", 0))):
        fields = dict(
            part.split("=", 1)
            for part in str(info.get(f"slave{number}", "")).split(",")
            if "=" in part
        )
        there.append(int(fields.get("offset", 0)))
    return here - min(there) if there else None
