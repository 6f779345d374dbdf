"""The keys of a memory backend, as a dump reads them and a restore writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from bytewax_redis_state.backend.dump.checkpoint_file import Page
from bytewax_redis_state.backend.dump.key_range import PAGE_KEYS, PageRead
from bytewax_redis_state.backend.memory.store import MemoryStore

__all__ = ["MemoryKeyRange"]


class MemoryKeyRange:
    """All keys of one prefix in a memory store; see :class:`.dump.key_range.KeyRange`."""

    def __init__(self, store: MemoryStore, prefix: bytes) -> None:
        self.prefix = prefix
        self.address = "memory"
        self._store = store

    def identity(self) -> str:
        """Name the database: each store is one."""
        return f"memory/{id(self._store):x}"

    def server(self) -> str:
        """Name the server's flavour and version."""
        return "memory"

    def clock(self) -> int:
        """Tell the time, milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def is_empty(self) -> bool:
        """Tell whether there is no key."""
        return not self._store.full_keys(self.prefix)

    def read(self) -> Iterator[PageRead]:
        """Read all records that are there from beginning to end of the reading."""
        keys = self._store.full_keys(self.prefix)
        for start in range(0, len(keys), PAGE_KEYS):
            part = keys[start : start + PAGE_KEYS]
            with self._store.mutex:
                page = self._page(part)
            yield PageRead(page, len(part) - len(page.keys), len(keys))

    def _page(self, keys: list[bytes]) -> Page:
        page = Page(self.clock(), [], [], [])
        for full in keys:
            data = self._store.data(full)
            if data is not None:
                left = self._store.time_left(full)
                page.keys.append(full[len(self.prefix) :])
                page.values.append(data)
                page.ttls.append(-1 if left is None else max(1, left // timedelta(milliseconds=1)))
        return page if any(left != -1 for left in page.ttls) else page._replace(ttls=[])

    def write(self, page: Page) -> int:
        """Write the records in place of older ones; gives the number of older ones."""
        there = 0
        with self._store.mutex:
            for index, key in enumerate(page.keys):
                full = self.prefix + key
                there += self._store.drop(full)
                left = page.ttls[index] if page.ttls else -1
                ttl = None if left == -1 else timedelta(milliseconds=left)
                self._store.put(full, page.values[index], ttl)
        return there

    def clear(self) -> None:
        """Delete all keys."""
        for full in self._store.full_keys(self.prefix):
            self._store.drop(full)

    def marker(self) -> bytes:
        """Read the marker of a restore, empty for none."""
        return self._store.marker(self.prefix)

    def mark(self, seen: bytes, value: bytes) -> bool:
        """Replace the marker if it is still the one that was seen; empty stands for none."""
        return self._store.mark(self.prefix, seen, value)
