"""A region in memory: the keys of a memory backend, as a checkpoint reads and writes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from bytewax_redis_state.backend.dump.checkpoint_file import Page
from bytewax_redis_state.backend.dump.key_range import PAGE_KEYS, Reading

if TYPE_CHECKING:
    from bytewax_redis_state.backend.memory.memory_backend import MemoryStateBackend

__all__ = ["MemoryKeyRange"]


class MemoryKeyRange:
    """All keys of a memory backend; see :class:`.region.KeyRange`."""

    def __init__(self, backend: MemoryStateBackend) -> None:
        self.prefix = backend.keys.prefix
        self.address = "memory"
        self._backend = backend

    def identity(self) -> str:
        """Tell which key space this is a part of: each backend has its own."""
        return f"memory/{id(self._backend):x}"

    def server(self) -> str:
        """Tell what keeps the region."""
        return "memory"

    def clock(self) -> int:
        """Tell the time, milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def is_empty(self) -> bool:
        """Tell whether there is no key."""
        return not self._backend.found()

    def read(self) -> Iterator[Reading]:
        """Read all records that are there from beginning to end of the reading."""
        keys = self._backend.found()
        for start in range(0, len(keys), PAGE_KEYS):
            part = keys[start : start + PAGE_KEYS]
            with self._backend.mutex:
                page = self._page(part)
            yield Reading(page, len(part) - len(page.keys), len(keys))

    def _page(self, keys: list[bytes]) -> Page:
        page = Page(self.clock(), [], [], [])
        for full in keys:
            data = self._backend.stored(full)
            if data is not None:
                left = self._backend.time_left(full)
                page.keys.append(full[len(self.prefix) :])
                page.values.append(data)
                page.ttls.append(-1 if left is None else max(1, left // timedelta(milliseconds=1)))
        return page if any(left != -1 for left in page.ttls) else page._replace(ttls=[])

    def write(self, page: Page) -> int:
        """Write the records, in place of what their keys held; gives how many were there."""
        there = 0
        with self._backend.mutex:
            for place, key in enumerate(page.keys):
                full = self.prefix + key
                there += self._backend.drop(full)
                left = page.ttls[place] if page.ttls else -1
                ttl = None if left == -1 else timedelta(milliseconds=left)
                self._backend.store_exactly(full, page.values[place], ttl)
        return there

    def clear(self) -> None:
        """Delete all keys."""
        for full in self._backend.found():
            self._backend.drop(full)

    def marker(self) -> bytes:
        """Read the marker of a restore, empty for none."""
        return self._backend.marker

    def mark(self, seen: bytes, value: bytes) -> bool:
        """Replace the marker, if it still is what was seen; empty stands for none."""
        with self._backend.mutex:
            unchanged = self._backend.marker == seen
            if unchanged:
                self._backend.marker = value
            return unchanged
