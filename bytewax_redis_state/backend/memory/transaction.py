"""Transactions on a memory backend."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bytewax_redis_state.backend.transaction import Transaction
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import ArgumentError
from bytewax_redis_state.keys import hash_tag_of

if TYPE_CHECKING:
    from bytewax_redis_state.backend.memory.memory_backend import MemoryStateBackend

__all__ = ["MemoryTransaction"]


class MemoryTransaction(Transaction, AbstractContextManager["MemoryTransaction"]):
    """A transaction on a memory backend."""

    def __init__(self, backend: MemoryStateBackend, tag: str | None) -> None:
        self._backend = backend
        self._tag = tag
        self._seen: dict[bytes, bytes | None] = {}
        self._changes: dict[bytes, tuple[bytes, timedelta | None] | None] = {}

    def _full(self, key: Key) -> bytes:
        full = self._backend.keys.full(key)
        if self._tag is not None and hash_tag_of(full) != self._tag.encode():
            raise ArgumentError(
                f"the key {key!r} has not the tag {self._tag!r} of its transaction",
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
                self._seen[full] = self._backend.stored(full)
            data = self._seen[full]
        return self._backend.decoded(key, data, default)

    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> None:
        """Write a value at the end."""
        self._changes[self._full(key)] = (self._backend.encoded(key, value, ttl), ttl)

    def delete(self, key: Key) -> None:
        """Delete a value at the end."""
        self._changes[self._full(key)] = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()

    def commit(self) -> None:
        """Write, if what was read is still there."""
        self._backend.commit(self._seen, self._changes)
