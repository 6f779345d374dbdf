"""The values that wait in a key's windows, packed once and not in every epoch.

A value waits for as long as the clock lets it, and what waits is written whenever its key has
changed. Invariant: what comes out depends on the queue alone, never on what was packed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from bytewax_redis_state.codec.brief import EPOCH, TICK
from bytewax_redis_state.codec.packing import scalar_packer
from bytewax_redis_state.codec.shapes import LEAVES

__all__ = ["PackedQueue"]

_Entry = tuple[Any, datetime]

_pack = scalar_packer()
_SHORT, _MIDDLE = 16, 0x10000  # lengths from which an array has a longer header


def _header(length: int) -> bytes:
    """Begin a msgpack array."""
    if length < _SHORT:
        return bytes((0x90 | length,))
    if length < _MIDDLE:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


def _packed(entry: _Entry) -> bytes | None:
    value, timestamp = entry
    kind = type(value)
    if kind not in LEAVES and not (kind is tuple and LEAVES.issuperset(map(type, value))):
        return None
    if timestamp.tzinfo is not timezone.utc or timestamp.fold:
        return None
    try:
        return _pack(value) + _pack((timestamp - EPOCH) // TICK)
    except (ValueError, OverflowError):  # a lone surrogate, say: whoever packs it next says so
        return None


class PackedQueue:
    """Pack the queue of one key, and remember it."""

    __slots__ = ("_entries", "_packed")

    def __init__(self) -> None:
        self._entries: Sequence[_Entry] = ()
        self._packed: list[bytes] = []

    def pack(self, queue: list[_Entry]) -> bytes | None:
        """Pack a queue.

        :arg queue: Values and their times; what is gone since the last call and what is new makes
            no difference, but what has stayed is known again if it has kept its order.
        :returns: An array of value, microseconds, value, microseconds, …; ``None`` where a value
            could change while it waits, or a time is in another zone.
        """
        before, at, end = self._entries, 0, len(self._entries)
        packed: list[bytes] = []
        for entry in queue:
            while at < end and before[at] is not entry:
                at += 1
            data = self._packed[at] if at < end else _packed(entry)
            if data is None:
                break
            packed.append(data)
            at += 1
        self._entries, self._packed = queue[: len(packed)], packed
        if len(packed) < len(queue):
            return None
        return _header(2 * len(packed)) + b"".join(packed)
