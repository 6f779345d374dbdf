"""The contract of a state backend, on a server or in memory; the docstrings say it.

Keys are text or bytes; text stands for its UTF-8, and a key that is UTF-8 comes back as text.
Values are of any type that the codec takes, and come back equal and of the same type.

Invariant: an operation on one key is carried out once and completely, or not at all. If a backend
can't know which, it raises ``UnknownOutcomeError``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from bytewax_redis_state.backend.dump.dumpable import Dumpable
from bytewax_redis_state.backend.health import Health, MemoryUsage
from bytewax_redis_state.backend.lock import LOCK_TTL, Lock
from bytewax_redis_state.backend.operations import PAGE, Versioned
from bytewax_redis_state.backend.statistics import RedisStats
from bytewax_redis_state.backend.transaction import Transaction
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import ConflictError
from bytewax_redis_state.server.probe import ServerInfo

__all__ = ["StateBackend", "transact"]


_Result = TypeVar("_Result")
_Self = TypeVar("_Self", bound="StateBackend")


class StateBackend(Dumpable):
    """Keep values by key. Safe to share between threads.

    Every operation that takes a key raises ``ArgumentError`` for a key that is empty, too long or
    reserved. Every operation that takes ``ttl`` raises it for zero, a negative time, or a value
    that is no timedelta. Writing a value may raise ``EncodeError``, reading one ``DecodeError``.
    On a server, every operation may raise ``ServerError`` and its subclasses; the operation may
    then be called again unless its docstring names ``UnknownOutcomeError``.
    """

    @abstractmethod
    def get(self, key: Key, default: Any = None) -> Any:
        """Read a value.

        :arg key: The key of the value.
        :arg default: The result where there is no value.
        :returns: The value.
        """

    @abstractmethod
    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value, in place of an older one.

        :arg key: The key of the value.
        :arg value: Of a type that the codec takes.
        :arg ttl: After which time the value goes; ``None`` for the backend's default.
        """

    def put_with_ttl(self, key: Key, value: Any, ttl: timedelta) -> None:
        """Write a value that expires; as :meth:`put`."""
        self.put(key, value, ttl)

    @abstractmethod
    def delete(self, key: Key) -> bool:
        """Delete a value.

        :arg key: The key of the value.
        :returns: Whether there was a value. A retry inside may have deleted it the first time, and
            the result is then false.
        """

    @abstractmethod
    def contains(self, key: Key) -> bool:
        """Tell whether there is a value."""

    @abstractmethod
    def list_keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:
        """List keys, in no order, without holding them.

        A key that exists from beginning to end is listed. A key that is created or deleted
        meanwhile may be. The server may name a key twice while its table grows or shrinks.

        :arg prefix: What the keys start with; none of its characters is special.
        :arg unique: Whether to name each key once, for which those seen are held in memory.
        :returns: The keys.
        """

    def keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:
        """List keys; the same as :meth:`list_keys`."""
        return self.list_keys(prefix, unique=unique)

    def values(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Any]:
        """List values; as :meth:`items`."""
        return (value for _, value in self.items(prefix, unique=unique))

    def items(self, prefix: Key = "", *, unique: bool = False) -> Iterator[tuple[Key, Any]]:
        """List keys with their values, in no order; as :meth:`list_keys`.

        The values are read by page, a little after the keys were listed. A key that was deleted
        in between is left out.

        :arg prefix: What the keys start with; none of its characters is special.
        :arg unique: Whether to name each key once, for which those seen are held in memory.
        :returns: Keys and values.
        """
        return self._items(self.list_keys(prefix, unique=unique))

    def _items(self, keys: Iterator[Key]) -> Iterator[tuple[Key, Any]]:
        while page := list(islice(keys, PAGE)):
            yield from self.batch_get(page).items()

    @abstractmethod
    def count(self, prefix: Key = "", *, unique: bool = False) -> int:
        """Count keys; as :meth:`list_keys`."""

    @abstractmethod
    def clear(self, prefix: Key = "") -> int:
        """Delete keys, in steps. Locks stay.

        :arg prefix: What the keys start with; none of its characters is special.
        :returns: How many keys were deleted.
        """

    @abstractmethod
    def ttl(self, key: Key) -> timedelta | None:
        """Tell the time until a value expires; ``None`` if it never does, or there is no value."""

    @abstractmethod
    def expire(self, key: Key, ttl: timedelta) -> bool:
        """Let a value expire after a time; returns whether there is a value."""

    @abstractmethod
    def persist(self, key: Key) -> bool:
        """Let a value never expire; returns whether there is a value that would have expired."""

    @abstractmethod
    def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Read many values, in few round trips.

        :arg keys: The keys of the values.
        :returns: The values by key; a key without a value is left out.
        """

    @abstractmethod
    def batch_put(self, items: Mapping[Key, Any], ttl: timedelta | None = None) -> None:
        """Write many values, in few round trips.

        All values are encoded before the first is sent. Up to ``pipeline_batch_size`` keys are
        written atomically; after an error the first of these groups may be written and the others
        not.

        :arg items: The values by key.
        :arg ttl: After which time the values go; ``None`` for the backend's default.
        """

    @abstractmethod
    def batch_delete(self, keys: Iterable[Key]) -> int:
        """Delete many values, in few round trips; returns how many there were."""

    @abstractmethod
    def get_and_delete(self, key: Key, default: Any = None) -> Any:
        """Read a value and delete it; only one of several callers gets it.

        :raises UnknownOutcomeError: If the value may have been deleted, and no reply came.
        """

    @abstractmethod
    def get_and_put(
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        """Write a value and return the value before.

        :raises UnknownOutcomeError: If the value may have been written, and no reply came.
        """

    @abstractmethod
    def set_if_not_exists(self, key: Key, value: Any, ttl: timedelta | None = None) -> bool:
        """Write a value if there is none; only one of several callers does.

        :returns: Whether the value was written.
        :raises UnknownOutcomeError: If the value may have been written, and no reply came.
        """

    @abstractmethod
    def get_with_version(self, key: Key, default: Any = None) -> Versioned:
        """Read a value and its version, for :meth:`compare_and_put`."""

    @abstractmethod
    def compare_and_put(
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        """Write a value if it has not changed since it was read.

        :arg key: The key of the value.
        :arg value: The new value.
        :arg expected_version: From :meth:`get_with_version`; ``None`` if there was no value.
        :arg ttl: After which time the value goes; ``None`` for the backend's default.
        :returns: The new version; ``None`` if there was another version and nothing was written.
        :raises UnknownOutcomeError: If the value may have been written, and no reply came.
        """

    @abstractmethod
    def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:
        """Add to an integer; a key without a value counts as 0.

        A counter is an ``int`` of 64 bits: :meth:`put` can set it and :meth:`get` reads it.

        :arg key: The key of the counter.
        :arg by: The number to add; may be negative.
        :arg ttl: After which time a new counter goes, ``None`` for the backend's default. A counter
            that exists keeps its TTL.
        :returns: The sum.
        :raises NotACounterError: If the key holds another value, the sum does not fit into 64 bits,
            or the codec encrypts or signs, so that the server could not add.
        :raises UnknownOutcomeError: If the number may have been added, and no reply came.
        """

    @abstractmethod
    def lock(
        self,
        name: Key,
        ttl: timedelta = LOCK_TTL,
        *,
        wait: timedelta | None = None,
        renew: bool = True,
    ) -> Lock:
        """Make a lock, to be held by a ``with`` block; see :class:`~.lock.Lock`.

        :arg name: The name of the lock; a key may have the same name.
        :arg ttl: After which time the lock is free again if its holder dies.
        :arg wait: How long to wait for the lock; ``None`` for ever, zero not at all.
        :arg renew: Whether the lock is renewed while the block runs, also beyond ``ttl``.
        """

    @abstractmethod
    def transaction(self, tag: str | None = None) -> AbstractContextManager[Transaction]:
        """Begin a transaction, committed at the end of a ``with`` block.

        At the end the values that the block read are compared with the stored ones, in one step
        with its writes. If a value has changed, or the block raises, nothing is written.

        :arg tag: What every key must have as its ``{tag}``; ``None`` for any keys, which a Redis
            Cluster takes only if they share one slot.
        :raises ConflictError: At the end, if a value that was read has changed.
        :raises UnknownOutcomeError: If the writes may have been carried out, and no reply came.
        """

    def transact(
        self, work: Callable[[Transaction], _Result], *, tag: str | None = None, retry: int = 3
    ) -> _Result:
        """Run a function in a transaction, and again after a conflict.

        :arg work: Reads and writes; may run several times, so it must do nothing else.
        :arg tag: As :meth:`transaction`.
        :arg retry: How often to try again.
        :returns: The function's result.
        :raises ConflictError: If every try met a conflict.
        """
        return transact(self, work, tag, retry)

    @abstractmethod
    def stats(self) -> RedisStats:
        """Give the counts of what this backend has done."""

    @abstractmethod
    def reset_stats(self) -> None:
        """Set all counts to zero."""

    @abstractmethod
    def health(self) -> Health:
        """Ask the server how it is."""

    def health_check(self) -> Health:
        """Ask the server how it is; as :meth:`health`."""
        return self.health()

    @abstractmethod
    def memory_usage(self, samples: int = 200) -> MemoryUsage:
        """Estimate how much of the server's memory this backend's keys take.

        :arg samples: How many keys to measure; all keys are counted.
        """

    @abstractmethod
    def server_info(self) -> ServerInfo:
        """Tell the server's flavour, version, role and settings."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections. Closing twice does nothing."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def transact(
    backend: StateBackend, work: Callable[[Transaction], _Result], tag: str | None, retry: int
) -> _Result:
    """Run a function in one transaction after the other until one is committed."""
    while True:
        try:
            with backend.transaction(tag) as tx:
                return work(tx)
        except ConflictError:
            if retry <= 0:
                raise
            retry -= 1
