"""The state backend in memory: the same contract without a server, for tests.

It is written apart from the one on Redis on purpose: each shows the other's mistakes. Values go
through the codec here too, so what can't be stored there can't be stored here.

Invariant: an operation holds the lock from its first look to its last change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.health import Health, MemoryUsage
from bytewax_redis_state.backend.interface import StateBackend
from bytewax_redis_state.backend.lock import (
    LOCK_TTL,
    Lock,
    LockKeeper,
)
from bytewax_redis_state.backend.memory.aio import AsyncMemoryStateBackend
from bytewax_redis_state.backend.memory.key_range import MemoryKeyRange
from bytewax_redis_state.backend.memory.lock import Held, MemoryLockKeeper
from bytewax_redis_state.backend.memory.transaction import MemoryTransaction
from bytewax_redis_state.backend.operations import (
    Versioned,
    check_increment,
    milliseconds,
    not_a_counter,
    version_of,
)
from bytewax_redis_state.backend.statistics import Meter, RedisStats
from bytewax_redis_state.backend.values import LARGEST, SMALLEST, Key, Values
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError, ConflictError
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.server.probe import ServerInfo

__all__ = ["MemoryStateBackend"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["MemoryStateBackend", _Args], _Result]


def _counted(method: _Method[_Args, _Result]) -> _Method[_Args, _Result]:
    """Hold the lock while a method runs, and count it."""

    def counting(self: MemoryStateBackend, /, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        started = time.perf_counter()
        try:
            with self.mutex:
                result = method(self, *args, **kwargs)
        except BaseException as error:
            self.meter.failed(error, time.perf_counter() - started)
            raise
        self.meter.ended(method.__name__, time.perf_counter() - started)
        return result

    return update_wrapper(counting, method)


@dataclass
class _Record:
    data: bytes
    until: float | None


class MemoryStateBackend(StateBackend):
    """Keep values in this process. Safe to share between threads.

    :arg config: What is said of keys and values; where Redis is doesn't matter.
    :arg codec: As ``RedisStateBackend`` has it; the others too.
    :arg refresh_on_read: Whether reading a value that has an end starts the default TTL anew.
    :arg clock: Seconds; for tests that don't want to wait.
    :arg beside: Another one, to share its keys as two backends on one server do; its clock counts.
    """

    def __init__(
        self,
        config: RedisConfig | None = None,
        codec: Codec | None = Codec(),  # noqa: B008 - frozen
        *,
        refresh_on_read: bool = False,
        clock: Callable[[], float] = time.monotonic,
        beside: MemoryStateBackend | None = None,
    ) -> None:
        self.config = config = config or RedisConfig()
        if refresh_on_read and config.default_ttl is None:
            raise ConfigError(
                "refresh_on_read is True and default_ttl is None",
                "say by default_ttl what reading starts anew",
            )
        self.keys = PrefixKeys(config.key_prefix.encode())
        self.values = Values(codec, config.key_prefix)
        self.meter = Meter()
        self.mutex: threading.RLock = beside.mutex if beside else threading.RLock()
        self.clock: Callable[[], float] = beside.clock if beside else clock
        self._refreshes = refresh_on_read
        self._records: dict[bytes, _Record] = beside._records if beside else {}
        self._locks: dict[bytes, Held] = beside._locks if beside else {}
        self.marker = b""
        self.aio = AsyncMemoryStateBackend(self)

    # --- records --------------------------------------------------------------------------------

    def stored(self, full: bytes) -> bytes | None:
        """Look what is stored, without counting it."""
        record = self._record(full)
        return None if record is None else record.data

    def store(self, full: bytes, data: bytes, ttl: timedelta | None) -> None:
        """Store, with the default TTL where none is given."""
        self.store_exactly(full, data, self.config.default_ttl if ttl is None else ttl)

    def store_exactly(self, full: bytes, data: bytes, ttl: timedelta | None) -> None:
        """Store, without end where no TTL is given."""
        self._records[full] = _Record(data, self._until(ttl))

    def time_left(self, full: bytes) -> timedelta | None:
        """Look how long a value stays; ``None`` where it has no end, or is not there."""
        record = self._record(full)
        if record is None or record.until is None:
            return None
        return timedelta(milliseconds=round(1000 * (record.until - self.clock())))

    def drop(self, full: bytes) -> bool:
        """Delete; tells whether there was anything."""
        there = self._record(full) is not None
        self._records.pop(full, None)
        return there

    def _until(self, ttl: timedelta | None) -> float | None:
        return None if ttl is None else self.clock() + milliseconds(ttl) / 1000

    def _record(self, full: bytes) -> _Record | None:
        record = self._records.get(full)
        if record is not None and record.until is not None and record.until <= self.clock():
            del self._records[full]
            return None
        return record

    def encoded(self, key: Key, value: Any, ttl: timedelta | None) -> bytes:
        """Check and encode what is to be stored."""
        if ttl is not None:
            milliseconds(ttl)
        data = self.values.dump(key, value)
        self.meter.wrote(len(data))
        return data

    def decoded(self, key: Key, data: bytes | None, default: Any) -> Any:
        """Decode what was stored, and count it."""
        if data is None:
            self.meter.read(0, 1, 0)
            return default
        self.meter.read(1, 0, len(data))
        return self.values.load(key, data)

    def _read(self, full: bytes) -> bytes | None:
        record = self._record(full)
        if record is None:
            return None
        if self._refreshes and record.until is not None:
            record.until = self._until(self.config.default_ttl)
        return record.data

    def found(self, prefix: Key = "") -> list[bytes]:
        """Look which keys there are."""
        raw = prefix.encode() if isinstance(prefix, str) else prefix
        start = self.keys.prefix + raw
        with self.mutex:
            return [k for k in list(self._records) if k.startswith(start) and self._record(k)]

    # --- the contract ---------------------------------------------------------------------------

    @_counted
    def get(self, key: Key, default: Any = None) -> Any:  # noqa: D102 - the interface says it
        return self.decoded(key, self._read(self.keys.full(key)), default)

    @_counted
    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:  # noqa: D102
        full = self.keys.full(key)
        self.store(full, self.encoded(key, value, ttl), ttl)

    @_counted
    def delete(self, key: Key) -> bool:  # noqa: D102
        return self.drop(self.keys.full(key))

    @_counted
    def contains(self, key: Key) -> bool:  # noqa: D102
        return self._record(self.keys.full(key)) is not None

    def list_keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:  # noqa: D102
        return iter(self._names(prefix))

    @_counted
    def _names(self, prefix: Key) -> list[Key]:
        return list(map(self.keys.user, self.found(prefix)))

    @_counted
    def count(self, prefix: Key = "", *, unique: bool = False) -> int:  # noqa: D102
        return len(self.found(prefix))

    @_counted
    def clear(self, prefix: Key = "") -> int:  # noqa: D102
        return sum(map(self.drop, self.found(prefix)))

    @_counted
    def ttl(self, key: Key) -> timedelta | None:  # noqa: D102
        return self.time_left(self.keys.full(key))

    @_counted
    def expire(self, key: Key, ttl: timedelta) -> bool:  # noqa: D102
        record, until = self._record(self.keys.full(key)), self._until(ttl)
        if record is not None:
            record.until = until
        return record is not None

    @_counted
    def persist(self, key: Key) -> bool:  # noqa: D102
        record = self._record(self.keys.full(key))
        if record is None or record.until is None:
            return False
        record.until = None
        return True

    @_counted
    def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:  # noqa: D102
        wanted = {key: self.keys.full(key) for key in keys}
        data = {key: self._read(full) for key, full in wanted.items()}
        missing = object()
        values = {key: self.decoded(key, one, missing) for key, one in data.items()}
        return {key: value for key, value in values.items() if value is not missing}

    @_counted
    def batch_put(  # noqa: D102
        self, items: Mapping[Key, Any], ttl: timedelta | None = None
    ) -> None:
        if ttl is not None:
            milliseconds(ttl)
        full = list(map(self.keys.full, items))
        data = [self.encoded(key, value, ttl) for key, value in items.items()]
        for place, one in zip(full, data, strict=True):
            self.store(place, one, ttl)

    @_counted
    def batch_delete(self, keys: Iterable[Key]) -> int:  # noqa: D102
        return sum(map(self.drop, set(map(self.keys.full, keys))))

    @_counted
    def get_and_delete(self, key: Key, default: Any = None) -> Any:  # noqa: D102
        full = self.keys.full(key)
        data = self.stored(full)
        self.drop(full)
        return self.decoded(key, data, default)

    @_counted
    def get_and_put(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        full = self.keys.full(key)
        data, before = self.encoded(key, value, ttl), self.stored(full)
        self.store(full, data, ttl)
        return self.decoded(key, before, default)

    @_counted
    def set_if_not_exists(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None
    ) -> bool:
        full = self.keys.full(key)
        data = self.encoded(key, value, ttl)
        if self._record(full) is not None:
            return False
        self.store(full, data, ttl)
        return True

    @_counted
    def get_with_version(self, key: Key, default: Any = None) -> Versioned:  # noqa: D102
        data = self.stored(self.keys.full(key))
        value = self.decoded(key, data, default)
        return Versioned(value, None if data is None else version_of(data))

    @_counted
    def compare_and_put(  # noqa: D102
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        full = self.keys.full(key)
        data, before = self.encoded(key, value, ttl), self.stored(full)
        if (None if before is None else version_of(before)) != expected_version:
            return None
        self.store(full, data, ttl)
        return version_of(data)

    @_counted
    def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:  # noqa: D102
        full = self.keys.full(key)
        until = self._until(self.config.default_ttl if ttl is None else ttl)
        check_increment(by, self.values)
        record = self._record(full)
        total = by + (0 if record is None else _integer(key, record.data))
        if not SMALLEST <= total <= LARGEST:
            raise not_a_counter(key, "overflow")
        self._records[full] = _Record(b"%d" % total, until if record is None else record.until)
        return total

    def lock(  # noqa: D102
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> Lock:
        return Lock(self.lock_keeper(name, ttl, wait), renew=renew)

    def lock_keeper(self, name: Key, ttl: timedelta, wait: timedelta | None) -> LockKeeper:
        """Find what keeps a lock."""
        held = self._locks.setdefault(self.keys.lock(name), Held())
        return MemoryLockKeeper(self, held, name, ttl, wait)

    def transaction(self, tag: str | None = None) -> MemoryTransaction:  # noqa: D102
        return MemoryTransaction(self, tag)

    @_counted
    def commit(
        self,
        seen: Mapping[bytes, bytes | None],
        changes: Mapping[bytes, tuple[bytes, timedelta | None] | None],
    ) -> None:
        """Write what a transaction holds, if what it saw is still there."""
        for full, data in seen.items():
            if self.stored(full) != data:
                raise ConflictError(
                    f"key {self.keys.user(full)!r} has changed since the transaction read it",
                    "nothing was written: read again and try again",
                )
        for full, change in changes.items():
            if change is None:
                self.drop(full)
            else:
                self.store(full, *change)

    def stats(self) -> RedisStats:  # noqa: D102
        return self.meter.stats()

    def reset_stats(self) -> None:  # noqa: D102
        self.meter.reset()

    def health(self) -> Health:  # noqa: D102
        used = self.memory_usage().server_bytes
        return Health(
            healthy=True,
            ping=timedelta(0),
            role="master",
            version="memory",
            used_memory=used,
            max_memory=0,
            eviction_policy="noeviction",
            append_only=False,
            persistence_ok=True,
            changes_since_save=0,
            replicas=0,
            replication_lag=None,
        )

    @_counted
    def memory_usage(self, samples: int = 200) -> MemoryUsage:  # noqa: D102
        sizes = [len(full) + len(self._records[full].data) for full in self.found()]
        return MemoryUsage(
            keys=len(sizes),
            sampled=len(sizes),
            namespace_bytes=sum(sizes),
            server_bytes=sum(sizes),
            server_peak_bytes=sum(sizes),
            server_max_bytes=0,
            fragmentation=1.0,
        )

    def server_info(self) -> ServerInfo:  # noqa: D102
        return ServerInfo(
            address="memory",
            flavour="redis",
            version=(0, 0, 0),
            mode="standalone",
            role="master",
            maxmemory=0,
            maxmemory_policy="noeviction",
            used_memory=self.memory_usage().server_bytes,
            aof_enabled=False,
            snapshot_taken=False,
            connected_replicas=0,
            loading=False,
            connected_clients=1,
            uptime_seconds=0,
        )

    @contextmanager
    def region(self) -> Iterator[KeyRange]:
        """Open all keys, as a checkpoint sees them."""
        yield MemoryKeyRange(self)

    def close(self) -> None:
        """Do nothing: what is kept goes with the object."""


def _integer(key: Key, data: bytes) -> int:
    text = data.decode(errors="replace")
    if not text.removeprefix("-").isdecimal() or str(int(text)) != text:
        raise not_a_counter(key, "")
    return int(text)
