"""What a state backend is, whatever keeps its keys; the contract is in the docstrings.

Keys are text or bytes; text stands for its UTF-8, and a key that is UTF-8 comes back as text.
Values are whatever the codec takes, and come back equal and of the same types.

Invariant: an operation on one key is carried out once and completely or not at all; where that
can't be told, ``UnknownOutcomeError`` says so.
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

    Every operation that takes a key raises ``ArgumentError`` for one that is empty, too long or
    reserved; one that takes ``ttl`` for zero, less, or no timedelta. One that writes a value
    raises ``EncodeError``, one that reads one ``DecodeError``. On a server, every operation raises
    ``ServerError`` and its kinds; where it has no word on it here, a retry does no harm.
    """

    @abstractmethod
    def get(self, key: Key, default: Any = None) -> Any:
        """Read a value.

        :arg key: Whose value.
        :arg default: What to return where there is none.
        :returns: The value.
        """

    @abstractmethod
    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value, in place of whatever was there.

        :arg key: Whose value.
        :arg value: What the codec takes.
        :arg ttl: When it is to go; ``None`` for the backend's default.
        """

    def put_with_ttl(self, key: Key, value: Any, ttl: timedelta) -> None:
        """Write a value that goes after a time; as :meth:`put`."""
        self.put(key, value, ttl)

    @abstractmethod
    def delete(self, key: Key) -> bool:
        """Delete a value.

        :arg key: Whose value.
        :returns: Whether there was one; after a retry it may say no of one it deleted.
        """

    @abstractmethod
    def contains(self, key: Key) -> bool:
        """Tell whether there is a value."""

    @abstractmethod
    def list_keys(self, prefix: Key = "", *, unique: bool = False) -> Iterator[Key]:
        """List keys, in no order, without holding them.

        A key that is there all the while is listed. One that comes or goes meanwhile may be. The
        server may name a key twice while its table grows or shrinks.

        :arg prefix: What they start with; none of its characters is special.
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
        """Delete keys, in steps. Locks are no keys in this sense, and stay.

        :arg prefix: What they start with; none of its characters is special.
        :returns: How many there were.
        """

    @abstractmethod
    def ttl(self, key: Key) -> timedelta | None:
        """Tell the time that a value has left; ``None`` where it has no end, or is not there."""

    @abstractmethod
    def expire(self, key: Key, ttl: timedelta) -> bool:
        """Let a value go after a time; returns whether there is one."""

    @abstractmethod
    def persist(self, key: Key) -> bool:
        """Let a value stay for ever; returns whether there is one that would have gone."""

    @abstractmethod
    def batch_get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Read many values, in few trips.

        :arg keys: Whose values.
        :returns: The values of those that are there: a missing key is missing here too.
        """

    @abstractmethod
    def batch_put(self, items: Mapping[Key, Any], ttl: timedelta | None = None) -> None:
        """Write many values, in few trips.

        All are encoded before the first is sent. Up to ``pipeline_batch_size`` keys are written
        at once; an error may leave the first of these written and the others not.

        :arg items: The values by key.
        :arg ttl: When they are to go; ``None`` for the backend's default.
        """

    @abstractmethod
    def batch_delete(self, keys: Iterable[Key]) -> int:
        """Delete many values, in few trips; returns how many there were."""

    @abstractmethod
    def get_and_delete(self, key: Key, default: Any = None) -> Any:
        """Read a value and delete it: of several callers, one gets it.

        :raises UnknownOutcomeError: If it may have been deleted, and no answer came.
        """

    @abstractmethod
    def get_and_put(
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> Any:
        """Write a value and return the one it took the place of.

        :raises UnknownOutcomeError: If it may have been written, and no answer came.
        """

    @abstractmethod
    def set_if_not_exists(self, key: Key, value: Any, ttl: timedelta | None = None) -> bool:
        """Write a value where none is: of several callers, one does.

        :returns: Whether it was written.
        :raises UnknownOutcomeError: If it may have been written, and no answer came.
        """

    @abstractmethod
    def get_with_version(self, key: Key, default: Any = None) -> Versioned:
        """Read a value and its version, for :meth:`compare_and_put`."""

    @abstractmethod
    def compare_and_put(
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> str | None:
        """Write a value if nobody changed it since it was read.

        :arg key: Whose value.
        :arg value: The new one.
        :arg expected_version: From :meth:`get_with_version`; ``None`` for nothing there.
        :arg ttl: When it is to go; ``None`` for the backend's default.
        :returns: The new version; ``None`` if another version was there and nothing was written.
        :raises UnknownOutcomeError: If it may have been written, and no answer came.
        """

    @abstractmethod
    def increment(self, key: Key, by: int = 1, ttl: timedelta | None = None) -> int:
        """Add to an integer, which is 0 where there is none.

        An ``int`` of 64 bits that was put is one, and :meth:`get` reads it as one.

        :arg key: Whose.
        :arg by: What to add; negative to take away.
        :arg ttl: When a key that this makes is to go, ``None`` for the backend's default; one that
            is there keeps its time.
        :returns: The sum.
        :raises NotACounterError: If it holds another value, the sum would leave 64 bits, or the
            codec encrypts or signs: the server has to add, and to see what.
        :raises UnknownOutcomeError: If it may have been added, and no answer came.
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

        :arg name: Which; names of locks and keys are apart.
        :arg ttl: After which time it is free again if its owner dies.
        :arg wait: How long to wait for it; ``None`` for ever, zero not at all.
        :arg renew: Whether it is kept while the block runs, also beyond ``ttl``.
        """

    @abstractmethod
    def transaction(self, tag: str | None = None) -> AbstractContextManager[Transaction]:
        """Begin a transaction, committed at the end of a ``with`` block.

        What the block reads is checked again at the end, in one step with its writes: if any of
        it has changed, nothing is written. If the block raises, nothing is written.

        :arg tag: What every key must have as its ``{tag}``; ``None`` for any keys, which a Redis
            Cluster takes only if they share one slot.
        :raises ConflictError: At the end, if what was read has changed.
        :raises UnknownOutcomeError: If it may have been committed, and no answer came.
        """

    def transact(
        self, work: Callable[[Transaction], _Result], *, tag: str | None = None, retry: int = 3
    ) -> _Result:
        """Run a function in a transaction, and again where another one was faster.

        :arg work: Reads and writes; may run several times, so it must do nothing else.
        :arg tag: As :meth:`transaction`.
        :arg retry: How often to try again.
        :returns: What it returned.
        :raises ConflictError: If another one was faster every time.
        """
        return transact(self, work, tag, retry)

    @abstractmethod
    def stats(self) -> RedisStats:
        """Tell what this backend has done."""

    @abstractmethod
    def reset_stats(self) -> None:
        """Begin counting anew."""

    @abstractmethod
    def health(self) -> Health:
        """Ask the server how it is."""

    def health_check(self) -> Health:
        """Ask the server how it is; as :meth:`health`."""
        return self.health()

    @abstractmethod
    def memory_usage(self, samples: int = 200) -> MemoryUsage:
        """Estimate what this backend's keys take of the server's memory.

        :arg samples: How many keys to measure; all are counted.
        """

    @abstractmethod
    def server_info(self) -> ServerInfo:
        """Tell what the server is."""

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
    """Run a function in transactions until one is committed."""
    while True:
        try:
            with backend.transaction(tag) as tx:
                return work(tx)
        except ConflictError:
            if retry <= 0:
                raise
            retry -= 1
