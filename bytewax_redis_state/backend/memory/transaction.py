"""Transactions on a memory backend."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

from bytewax_redis_state.backend.memory.counted_values import CountedValues
from bytewax_redis_state.backend.memory.store import MemoryStore
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.transaction import Transaction, ended_error
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import ArgumentError, ConflictError
from bytewax_redis_state.keys import PrefixKeys, hash_tag_of

__all__ = ["MemoryTransaction"]


class MemoryTransaction(Transaction, AbstractContextManager["MemoryTransaction"]):
    """A transaction on a memory store.

    :arg store: The store.
    :arg keys: The keys of the backend.
    :arg values: Its values.
    :arg meter: Counts the commit.
    :arg default_ttl: For values that are put without a TTL.
    :arg tag: What every key must have as its ``{tag}``; ``None`` for any.
    """

    def __init__(
        self,
        store: MemoryStore,
        keys: PrefixKeys,
        values: CountedValues,
        meter: Meter,
        *,
        default_ttl: timedelta | None,
        tag: str | None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._values = values
        self._meter = meter
        self._default_ttl = default_ttl
        self._tag = tag
        self._seen: dict[bytes, bytes | None] = {}
        self._changes: dict[bytes, tuple[bytes, timedelta | None] | None] = {}
        self._has_ended = False

    def _full(self, key: Key) -> bytes:
        if self._has_ended:
            raise ended_error(key)
        full = self._keys.full(key)
        if self._tag is not None and hash_tag_of(full) != self._tag.encode():
            raise ArgumentError(
                f"the key {key!r} does not have the tag {self._tag!r} of its transaction",
                f"put {{{self._tag}}} into the key",
            )
        return full

    def get(self, key: Key, default: Any = None) -> Any:
        """Read a value."""
        full = self._full(key)
        if full in self._changes:
            change = self._changes[full]
            data = None if change is None else change[0]
        else:
            if full not in self._seen:
                self._seen[full] = self._store.data(full)
            data = self._seen[full]
        return self._values.load(key, data, default)

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value at the end."""
        data = self._values.dump(key, value, ttl)
        self._changes[self._full(key)] = (data, self._default_ttl if ttl is None else ttl)

    def delete(self, key: Key) -> None:
        """Delete a value at the end."""
        self._changes[self._full(key)] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        if kind is None:
            self.commit()

    def end(self) -> None:
        """Take no more reads and writes: nobody would carry them out."""
        self._has_ended = True

    def commit(self) -> None:
        """Write the changes if the values that were read are still the same."""
        started = time.perf_counter()
        try:
            with self._store.mutex:
                self._check()
                self._write()
        except ConflictError as error:
            self._meter.failed(error, time.perf_counter() - started)
            raise
        self._meter.ended("commit", time.perf_counter() - started)

    def _check(self) -> None:
        for full, data in self._seen.items():
            if self._store.data(full) != data:
                raise ConflictError(
                    f"key {self._keys.user(full)!r} has changed since the transaction read it",
                    "nothing was written: read again and try again",
                )

    def _write(self) -> None:
        for full, change in self._changes.items():
            if change is None:
                self._store.drop(full)
            else:
                self._store.put(full, *change)
