"""The state backend in memory: the same contract without a server, for tests.

It is written apart from the one on Redis on purpose: a mistake in one shows as a difference between
the two, because one contract suite runs over both.

Invariant: an operation holds the store's mutex from its first look to its last change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.health import Health, MemoryUsage
from bytewax_redis_state.backend.interface import StateBackend
from bytewax_redis_state.backend.lock import LOCK_TTL, Lock
from bytewax_redis_state.backend.memory.aio import AsyncMemoryStateBackend
from bytewax_redis_state.backend.memory.counted_values import CountedValues
from bytewax_redis_state.backend.memory.key_range import MemoryKeyRange
from bytewax_redis_state.backend.memory.lock import MemoryStoredLock
from bytewax_redis_state.backend.memory.store import MemoryStore
from bytewax_redis_state.backend.memory.transaction import MemoryTransaction
from bytewax_redis_state.backend.namespace import require_own_room
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
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.server.probe import ServerInfo

__all__ = ["MemoryStateBackend"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate["MemoryStateBackend", _Args], _Result]


def _counted(method: _Method[_Args, _Result]) -> _Method[_Args, _Result]:
    """Hold the store's mutex while a method runs, and count the call."""

    def counting(self: MemoryStateBackend, /, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        started = time.perf_counter()
        try:
            with self._store.mutex:
                result = method(self, *args, **kwargs)
        except BaseException as error:
            self._meter.failed(error, time.perf_counter() - started)
            raise
        self._meter.ended(method.__name__, time.perf_counter() - started)
        return result

    return update_wrapper(counting, method)


class MemoryStateBackend(StateBackend):
    """Keep values in this process. Safe to share between threads.

    :arg config: Prefix and default TTL; the other settings are not used.
    :arg codec: As for ``RedisStateBackend``.
    :arg refresh_on_read: As for ``RedisStateBackend``.
    :arg clock: Gives seconds, for tests that don't want to wait.
    :arg beside: Another memory backend, to share its store and clock as two backends on one server
        do.
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
                "refresh_on_read is True and default_ttl is None: there is no TTL to start again",
                "set default_ttl, or leave refresh_on_read out",
            )
        self._refreshes = refresh_on_read
        self._keys = PrefixKeys(config.key_prefix.encode())
        require_own_room(self._keys)
        self._values = Values(codec, config.key_prefix)
        self._meter = Meter()
        self._counted_values = CountedValues(self._values, self._meter)
        self._store: MemoryStore = MemoryStore(clock) if beside is None else beside._store
        self.aio = AsyncMemoryStateBackend(self, self._meter, self._stored_lock, self.transaction)

    def _put(self, full: bytes, data: bytes, ttl: timedelta | None) -> None:
        self._store.put(full, data, self.config.default_ttl if ttl is None else ttl)

    def _read(self, full: bytes) -> bytes | None:
        record = self._store.record(full)
        if record is None:
            return None
        if self._refreshes and record.until is not None:
            record.until = self._store.end_of(self.config.default_ttl)
        return record.data

    def _found(self, prefix: Key = "") -> list[bytes]:
        raw = prefix.encode() if isinstance(prefix, str) else prefix
        return self._store.full_keys(self._keys.prefix + raw)

    # --- the contract ---------------------------------------------------------------------------

    @_counted
    def get(self, key: Key, default: Any = None) -> Any:  # noqa: D102 - the interface says it
        return self._counted_values.load(key, self._read(self._keys.full(key)), default)

    @_counted
    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:  # noqa: D102
        full = self._keys.full(key)
        self._put(full, self._counted_values.dump(key, value, ttl), ttl)

    @_counted
    def delete(self, key: Key) -> bool:  # noqa: D102
        return self._store.drop(self._keys.full(key))

    @_counted
    def contains(self, key: Key) -> bool:  # noqa: D102
        return self._store.record(self._keys.full(key)) is not None

    def list_keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:  # noqa: D102
        return iter(self._names(prefix))

    @_counted
    def _names(self, prefix: Key) -> list[Key]:
        return list(map(self._keys.user, self._found(prefix)))

    @_counted
    def count(self, prefix: Key = "", *, unique: bool = False) -> int:  # noqa: D102
        return len(self._found(prefix))

    @_counted
    def clear(self, prefix: Key = "") -> int:  # noqa: D102
        return sum(map(self._store.drop, self._found(prefix)))

    @_counted
    def ttl(self, key: Key) -> timedelta | None:  # noqa: D102
        return self._store.time_left(self._keys.full(key))

    @_counted
    def expire(self, key: Key, ttl: timedelta) -> bool:  # noqa: D102
        record, until = self._store.record(self._keys.full(key)), self._store.end_of(ttl)
        if record is not None:
            record.until = until
        return record is not None

    @_counted
    def persist(self, key: Key) -> bool:  # noqa: D102
        record = self._store.record(self._keys.full(key))
        if record is None or record.until is None:
            return False
        record.until = None
        return True

    @_counted
    def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:  # noqa: D102
        wanted = {key: self._keys.full(key) for key in keys}
        data = {key: self._read(full) for key, full in wanted.items()}
        missing = object()
        values = {key: self._counted_values.load(key, one, missing) for key, one in data.items()}
        return {key: value for key, value in values.items() if value is not missing}

    @_counted
    def batch_put(  # noqa: D102
        self, items: Mapping[Key, Any], ttl: timedelta | None = None
    ) -> None:
        if ttl is not None:
            milliseconds(ttl)
        full = list(map(self._keys.full, items))
        data = [self._counted_values.dump(key, value, ttl) for key, value in items.items()]
        for one, encoded in zip(full, data, strict=True):
            self._put(one, encoded, ttl)

    @_counted
    def batch_delete(self, keys: Iterable[Key]) -> int:  # noqa: D102
        return sum(map(self._store.drop, set(map(self._keys.full, keys))))

    @_counted
    def get_and_delete(self, key: Key, default: Any = None) -> Any:  # noqa: D102
        full = self._keys.full(key)
        data = self._store.data(full)
        self._store.drop(full)
        return self._counted_values.load(key, data, default)

    @_counted
    def get_and_put(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        full = self._keys.full(key)
        data, before = self._counted_values.dump(key, value, ttl), self._store.data(full)
        self._put(full, data, ttl)
        return self._counted_values.load(key, before, default)

    @_counted
    def set_if_not_exists(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None
    ) -> bool:
        full = self._keys.full(key)
        data = self._counted_values.dump(key, value, ttl)
        if self._store.record(full) is not None:
            return False
        self._put(full, data, ttl)
        return True

    @_counted
    def get_with_version(self, key: Key, default: Any = None) -> Versioned:  # noqa: D102
        data = self._store.data(self._keys.full(key))
        value = self._counted_values.load(key, data, default)
        return Versioned(value, None if data is None else version_of(data))

    @_counted
    def compare_and_put(  # noqa: D102
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        full = self._keys.full(key)
        data, before = self._counted_values.dump(key, value, ttl), self._store.data(full)
        if (None if before is None else version_of(before)) != expected_version:
            return None
        self._put(full, data, ttl)
        return version_of(data)

    @_counted
    def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:  # noqa: D102
        full = self._keys.full(key)
        ttl = self.config.default_ttl if ttl is None else ttl
        if ttl is not None:
            milliseconds(ttl)
        check_increment(by, self._values)
        record = self._store.record(full)
        total = by + (0 if record is None else _integer(key, record.data))
        if not SMALLEST <= total <= LARGEST:
            raise not_a_counter(key, "overflow")
        if record is None:
            self._store.put(full, b"%d" % total, ttl)
        else:
            record.data = b"%d" % total
        return total

    def lock(  # noqa: D102
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> Lock:
        return Lock(self._stored_lock(name, ttl, wait), renew=renew)

    def _stored_lock(self, name: Key, ttl: timedelta, wait: timedelta | None) -> MemoryStoredLock:
        return MemoryStoredLock(self._store, self._keys.lock(name), name, ttl, wait)

    def transaction(self, tag: str | None = None) -> MemoryTransaction:  # noqa: D102
        return MemoryTransaction(
            self._store,
            self._keys,
            self._counted_values,
            self._meter,
            default_ttl=self.config.default_ttl,
            tag=tag,
        )

    def stats(self) -> RedisStats:  # noqa: D102
        return self._meter.stats()

    def reset_stats(self) -> None:  # noqa: D102
        self._meter.reset()

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
        data = {full: self._store.data(full) or b"" for full in self._found()}
        sizes = [len(full) + len(one) for full, one in data.items()]
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
    def key_range(self) -> Iterator[KeyRange]:
        """Open all keys, as a dump reads them and a restore writes them."""
        yield MemoryKeyRange(self._store, self._keys.prefix)

    def close(self) -> None:
        """Do nothing: the values go with the object."""


def _integer(key: Key, data: bytes) -> int:
    text = data.decode(errors="replace")
    if not text.removeprefix("-").isdecimal() or str(int(text)) != text:
        raise not_a_counter(key, "")
    return int(text)
