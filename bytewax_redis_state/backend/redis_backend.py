"""The state backend on Redis, for blocking code.

Invariant: no operation's logic is in this class. It is in ``operations``, for coroutines too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import Any

from bytewax_redis_state.backend.aio import AsyncStateBackend
from bytewax_redis_state.backend.driver import Driver
from bytewax_redis_state.backend.dump.key_range import KeyRange, RedisKeyRange
from bytewax_redis_state.backend.health import Health, HealthOperations, MemoryUsage
from bytewax_redis_state.backend.interface import StateBackend
from bytewax_redis_state.backend.lock import LOCK_TTL, Lock
from bytewax_redis_state.backend.lock_operations import LockOperations, RedisStoredLock
from bytewax_redis_state.backend.namespace import (
    connection_name,
    refuse_overlap,
    require_own_room,
)
from bytewax_redis_state.backend.operations import Operations, Versioned
from bytewax_redis_state.backend.retry_policy import RetryPolicy
from bytewax_redis_state.backend.statistics import Meter, RedisStats
from bytewax_redis_state.backend.transaction import RedisTransaction, TransactionOperations
from bytewax_redis_state.backend.transport.cluster_pool import ClusterPool
from bytewax_redis_state.backend.transport.connection_pool import ConnectionPool
from bytewax_redis_state.backend.transport.round_trip import RoundTripError
from bytewax_redis_state.backend.values import Key, Values
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError, ServerAccessError, ServerUnfitError
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.server.client import Client, connect, refuse_cluster_node
from bytewax_redis_state.server.probe import ServerInfo
from bytewax_redis_state.server.translation import translate_error

__all__ = ["RedisStateBackend"]

SLOW = timedelta(seconds=1)
"""An operation that takes longer is logged, unless told otherwise."""

_PLAIN = Codec()


class RedisStateBackend(StateBackend):
    """Keep values in Redis, under the config's prefix. Safe to share between threads.

    A backend is refused if its prefix begins with that of another live backend, or the other way
    round: each would list, count and clear keys of the other. So is one whose prefix reaches into
    the namespace of a flow. Keys of flows, and locks of other backends, are never listed, counted
    or cleared.

    :arg config: Where Redis is, with timeouts, retries and the prefix.
    :arg codec: Encodes values; ``None`` if all values are bytes, to be stored as they are.
    :arg refresh_on_read: Whether reading a value that has a TTL starts the default TTL again.
    :arg slow: An operation that takes longer is logged.
    :arg allow_overlap: Whether the prefix may overlap with another backend's, for tools that work
        on several backends.
    :raises ConfigError: If settings contradict each other, or the prefix overlaps with another.
    :raises ServerError: If the server can't be used.
    """

    def __init__(
        self,
        config: RedisConfig | None = None,
        codec: Codec | None = _PLAIN,
        *,
        refresh_on_read: bool = False,
        slow: timedelta = SLOW,
        allow_overlap: bool = False,
    ) -> None:
        self.config = config = config or RedisConfig()
        if refresh_on_read and config.default_ttl is None:
            raise ConfigError(
                "refresh_on_read is True and default_ttl is None: there is no TTL to start again",
                "set default_ttl, or leave refresh_on_read out",
            )
        self._keys = PrefixKeys(config.key_prefix.encode())
        require_own_room(self._keys)
        self._values = Values(codec, config.key_prefix)
        self._meter = Meter()
        self._operations = Operations(
            self._keys,
            self._values,
            self._meter,
            default_ttl=config.default_ttl,
            refresh_on_read=refresh_on_read,
            command_keys=config.pipeline_batch_size,
            is_cluster=config.cluster_mode,
        )
        self._health = HealthOperations(self._operations, config.address)
        self._retry_policy = RetryPolicy(config, self._meter, slow)
        name = connection_name(self._keys.prefix)
        self._pool = (
            ClusterPool(config, name) if config.cluster_mode else ConnectionPool(config, name)
        )
        self._driver = Driver(self._pool, self._retry_policy)
        self._open(allow_overlap=allow_overlap)
        self.aio = AsyncStateBackend(
            config, name, self._operations, self._health, self._meter, self._retry_policy, self
        )

    def _open(self, *, allow_overlap: bool) -> None:
        try:
            self._pool.open_minimum()
            if self.config.topology.kind == "single":
                self._refuse_cluster_node()
            if not allow_overlap:
                refuse_overlap(self._driver, self._keys)
            self._meter.reset()
        except RoundTripError as error:
            raise translate_error(error.cause, self.config.address) from error.cause
        except BaseException:
            self._pool.close()
            raise

    def _refuse_cluster_node(self) -> None:
        with suppress(ServerAccessError):  # the user may not run INFO
            refuse_cluster_node(self.config, self.server_info().mode)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        codec: Codec | None = _PLAIN,
        refresh_on_read: bool = False,
        slow: timedelta = SLOW,
        allow_overlap: bool = False,
        **settings: Any,
    ) -> RedisStateBackend:
        """Make a backend for a URL.

        :arg url: Where Redis is.
        :arg codec: As the class says; the others too.
        :arg refresh_on_read: As the class says.
        :arg slow: As the class says.
        :arg allow_overlap: As the class says.
        :arg settings: Any other field of ``RedisConfig`` by its name.
        :returns: The backend.
        """
        return cls(
            RedisConfig.from_url(url, **settings),
            codec,
            refresh_on_read=refresh_on_read,
            slow=slow,
            allow_overlap=allow_overlap,
        )

    @cached_property
    def client(self) -> Client:
        """A redis-py client of the same server, for commands that this class doesn't offer."""
        return connect(self.config)

    def __repr__(self) -> str:
        return f"RedisStateBackend({self.config!r})"

    def get(self, key: Key, default: Any = None) -> Any:  # noqa: D102 - the interface says it
        return self._driver.run(self._operations.get(key, default))

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:  # noqa: D102
        self._driver.run(self._operations.put(key, value, ttl))

    def delete(self, key: Key) -> bool:  # noqa: D102
        return self._driver.run(self._operations.delete(key))

    def contains(self, key: Key) -> bool:  # noqa: D102
        return self._driver.run(self._operations.contains(key))

    def list_keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:  # noqa: D102
        pattern = self._keys.pattern(prefix)
        return self._list_keys(pattern, set() if unique else None)

    def _list_keys(self, pattern: bytes, seen: set[bytes] | None) -> Iterator[Key]:
        cursor = -1
        while cursor:
            cursor, found = self._driver.run(self._operations.page(max(cursor, 0), pattern))
            yield from self._operations.named(found, seen)

    def count(self, prefix: Key = "", *, unique: bool = False) -> int:  # noqa: D102
        return self._driver.run(self._operations.count(prefix, unique=unique))

    def clear(self, prefix: Key = "") -> int:  # noqa: D102
        return self._driver.run(self._operations.clear(prefix))

    def ttl(self, key: Key) -> timedelta | None:  # noqa: D102
        return self._driver.run(self._operations.ttl(key))

    def expire(self, key: Key, ttl: timedelta) -> bool:  # noqa: D102
        return self._driver.run(self._operations.expire(key, ttl))

    def persist(self, key: Key) -> bool:  # noqa: D102
        return self._driver.run(self._operations.persist(key))

    def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:  # noqa: D102
        return self._driver.run(self._operations.batch_get(keys))

    def batch_put(  # noqa: D102
        self, items: Mapping[Key, Any], ttl: timedelta | None = None
    ) -> None:
        self._driver.run(self._operations.batch_put(items, ttl))

    def batch_delete(self, keys: Iterable[Key]) -> int:  # noqa: D102
        return self._driver.run(self._operations.batch_delete(keys))

    def get_and_delete(self, key: Key, default: Any = None) -> Any:  # noqa: D102
        return self._driver.run(self._operations.get_and_delete(key, default))

    def get_and_put(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        return self._driver.run(self._operations.get_and_put(key, value, ttl, default))

    def set_if_not_exists(  # noqa: D102
        self, key: Key, value: Any, ttl: timedelta | None = None
    ) -> bool:
        return self._driver.run(self._operations.set_if_not_exists(key, value, ttl))

    def get_with_version(self, key: Key, default: Any = None) -> Versioned:  # noqa: D102
        return self._driver.run(self._operations.get_with_version(key, default))

    def compare_and_put(  # noqa: D102
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        return self._driver.run(self._operations.compare_and_put(key, value, expected_version, ttl))

    def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:  # noqa: D102
        return self._driver.run(self._operations.increment(key, by, ttl))

    def lock(  # noqa: D102
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> Lock:
        operations = LockOperations(self._keys, name, ttl, wait)
        return Lock(RedisStoredLock(self._driver, operations), renew=renew)

    def transaction(self, tag: str | None = None) -> RedisTransaction:  # noqa: D102
        return RedisTransaction(self._driver, TransactionOperations(self._operations, tag))

    def stats(self) -> RedisStats:  # noqa: D102
        return self._meter.stats()

    def reset_stats(self) -> None:  # noqa: D102
        self._meter.reset()

    def health(self) -> Health:  # noqa: D102
        return self._driver.run(self._health.health())

    def memory_usage(self, samples: int = 200) -> MemoryUsage:  # noqa: D102
        return self._driver.run(self._health.memory_usage(samples))

    def server_info(self) -> ServerInfo:  # noqa: D102
        return self._driver.run(self._health.server_info())

    @contextmanager
    def key_range(self) -> Iterator[KeyRange]:
        """Open all keys, over a connection of their own, because their requests are pipelined.

        :raises ServerUnfitError: If the server is a cluster.
        """
        if self.config.cluster_mode:
            raise ServerUnfitError(
                f"{self.config.address} is a Redis Cluster: a state backend can't take or restore "
                "checkpoints there",
                "keep these keys on a single server, or behind Sentinels",
            )
        client = connect(self.config)
        try:
            yield RedisKeyRange(client, self._keys.prefix)
        finally:
            client.close()

    def close(self) -> None:  # noqa: D102
        self._pool.close()
        self.aio.close_all()
        if "client" in self.__dict__:
            self.client.close()
