"""Transactions: reads and writes that are carried out together, or not at all.

A transaction keeps its read set and its write set on the client. The commit is one script, which
reads the read set again and writes only if every value is the same. Values are compared, not
version counters: a value that changed and changed back does not conflict.

Invariant: until the commit, nothing is written.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

from bytewax_redis_state.backend.driver import AsyncDriver, Driver
from bytewax_redis_state.backend.generator import CommandGenerator
from bytewax_redis_state.backend.operation import operation
from bytewax_redis_state.backend.operations import Operations, version_of
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import ArgumentError, ConflictError
from bytewax_redis_state.keys import hash_tag_of, slot_of
from bytewax_redis_state.scripts import StateScripts

__all__ = [
    "AsyncTransaction",
    "RedisTransaction",
    "Transaction",
    "TransactionOperations",
    "ended_error",
]

_DELETE = "delete"
_Change = tuple[bytes, int | None] | str


class TransactionOperations:
    """The read set and the write set of a transaction, and the operations on them.

    :arg operations: The other operations of the backend.
    :arg tag: What every key must have as its ``{tag}``; ``None`` for any.
    """

    def __init__(self, operations: Operations, tag: str | None) -> None:
        self._operations = operations
        self._tag = None if tag is None else tag.encode()
        self._reads: dict[bytes, bytes | None] = {}
        self._writes: dict[bytes, _Change] = {}
        self._has_ended = False

    def end(self) -> None:
        """Take no more reads and writes: nobody would carry them out."""
        self._has_ended = True

    def full(self, key: Key) -> bytes:
        """Make the Redis key, and check that it may be part of the transaction.

        :raises ArgumentError: If the transaction has ended, or the key has another tag than it, or
            another slot in a cluster.
        """
        if self._has_ended:
            raise ended_error(key)
        full = self._operations.keys.full(key)
        if self._tag is not None and hash_tag_of(full) != self._tag:
            raise ArgumentError(
                f"the key {key!r} does not have the tag {self._tag.decode()!r} of its transaction",
                f"put {{{self._tag.decode()}}} into the key",
            )
        if self._operations.is_cluster:
            for other in (*self._reads, *self._writes):
                if slot_of(other) != slot_of(full):
                    raise ArgumentError(
                        f"the key {key!r} is in another slot of the cluster than {other!r}",
                        "give the keys of a transaction a common {tag}",
                    )
                break
        return full

    @operation("tx_get", idempotent=True)
    def get(self, key: Key, default: Any) -> CommandGenerator[Any]:
        """Read the value that this transaction wrote or read before, else the stored one."""
        full = self.full(key)
        change = self._writes.get(full)
        if change is not None:
            return self._load(key, None if isinstance(change, str) else change[0], default)
        if full not in self._reads:
            (self._reads[full],) = yield [("GET", full)]
        return self._load(key, self._reads[full], default)

    def _load(self, key: Key, data: bytes | None, default: Any) -> Any:
        return self._operations.decoded(key, data, default)

    def put(self, key: Key, value: Any, ttl: timedelta | None) -> None:
        """Add a value to the write set."""
        left = self._operations.ttl_of(ttl)
        self._writes[self.full(key)] = (self._operations.encoded(key, value), left)

    def delete(self, key: Key) -> None:
        """Add a deletion to the write set."""
        self._writes[self.full(key)] = _DELETE

    @operation("commit", idempotent=False)
    def commit(self) -> CommandGenerator[None]:
        """Write the write set if the read set is unchanged."""
        keys = list(self._reads | dict.fromkeys(self._writes))
        if not keys:
            return
        arguments: list[bytes | str | int] = []
        for key in keys:
            arguments += (self._expected(key), *self._change(key))
        (answer,) = yield [StateScripts.commit(keys, arguments)]
        if answer:
            changed = self._operations.keys.user(keys[answer - 1])
            raise ConflictError(
                f"key {changed!r} has changed since the transaction read it",
                "nothing was written: read again and try again",
            )

    def _expected(self, key: bytes) -> str:
        if key not in self._reads:
            return ""
        data = self._reads[key]
        return "-" if data is None else version_of(data)

    def _change(self, key: bytes) -> tuple[str | int, bytes]:
        change = self._writes.get(key)
        if change is None:
            return "keep", b""
        if isinstance(change, str):
            return change, b""
        data, left = change
        return "put" if left is None else left, data


def ended_error(key: Key) -> ArgumentError:
    """Make the error for a transaction that is used after its end."""
    return ArgumentError(
        f"the key {key!r} was read or written in a transaction that has ended",
        "begin another one: with backend.transaction() as tx",
    )


class Transaction:
    """Read and write in a transaction; made by ``StateBackend.transaction``."""

    def get(self, key: Key, default: Any = None) -> Any:
        """Read a value: the one that this transaction wrote, else the stored one."""
        raise NotImplementedError

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value at the end; its ``ttl`` starts then."""
        raise NotImplementedError

    def delete(self, key: Key) -> None:
        """Delete a value at the end."""
        raise NotImplementedError

    def contains(self, key: Key) -> bool:
        """Tell whether there is a value; counts as reading it."""
        missing = object()
        return self.get(key, missing) is not missing


class RedisTransaction(Transaction, AbstractContextManager["RedisTransaction"]):
    """A transaction of blocking code."""

    def __init__(self, driver: Driver, operations: TransactionOperations) -> None:
        self._driver = driver
        self._operations = operations

    def get(self, key: Key, default: Any = None) -> Any:
        """Read a value."""
        return self._driver.run(self._operations.get(key, default))

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value at the end."""
        self._operations.put(key, value, ttl)

    def delete(self, key: Key) -> None:
        """Delete a value at the end."""
        self._operations.delete(key)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._operations.end()
        if kind is None:
            self._driver.run(self._operations.commit())


class AsyncTransaction(AbstractAsyncContextManager["AsyncTransaction"]):
    """A transaction of coroutines."""

    def __init__(self, driver: AsyncDriver, operations: TransactionOperations) -> None:
        self._driver = driver
        self._operations = operations

    async def get(self, key: Key, default: Any = None) -> Any:
        """Read a value."""
        return await self._driver.run(self._operations.get(key, default))

    async def contains(self, key: Key) -> bool:
        """Tell whether there is a value; counts as reading it."""
        missing = object()
        return await self.get(key, missing) is not missing

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value at the end; nothing is sent yet, so nothing is awaited."""
        self._operations.put(key, value, ttl)

    def delete(self, key: Key) -> None:
        """Delete a value at the end; nothing is sent yet, so nothing is awaited."""
        self._operations.delete(key)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._operations.end()
        if kind is None:
            await self._driver.run(self._operations.commit())
