"""All windows of one key, written short: the state that window steps have most.

As dataclasses inside a dataclass, with names of fields and a level of packing for each, a window
takes eight times the time and five times the bytes. Extension type 19: one byte for the kind, then
a msgpack array.

====  ==================  ==============================================================
kind  windows             array
====  ==================  ==============================================================
1     of fixed length     since, base, queue, then of each window: ID, start, length,
                          state
2     sessions            since, base, queue, largest ID, merges that wait, then of each
                          window: ID, start, length, merged IDs, state
====  ==================  ==============================================================

Since and base are of the event clock; the queue is the number of values that wait, then value and
time of each. Times are microseconds since 1970 in UTC, lengths are microseconds, and what else is
empty is nil. What is in another zone, or of another clock, is written as dataclasses.

Invariant: what is read is a ``_WindowSnapshot``, equal to the one that was written.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from bytewax_redis_state.codec.classes import Classes, Pack, Shape, Unpack
from bytewax_redis_state.codec.shapes import extension
from bytewax_redis_state.errors import DecodeError

__all__ = [
    "FIXED",
    "SESSIONS",
    "WINDOWS",
    "Windows",
    "WindowsReader",
    "microseconds",
    "pack_windows",
]

WINDOWS = 19
"""Extension type."""
FIXED, SESSIONS = 1, 2
"""Kinds."""

_MODULE = "bytewax.operators.windowing"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Windows(NamedTuple):
    """What is written, and read as Bytewax's snapshot.

    :arg kind: :data:`FIXED` or :data:`SESSIONS`.
    :arg fields: The array of the table above.
    """

    kind: int
    fields: list[Any]


def microseconds(time: datetime) -> int:
    """Make a number of a time in UTC."""
    return (time - _EPOCH) // _MICROSECOND


def _write(windows: Windows, pack: Pack) -> bytes:
    return windows.kind.to_bytes(1, "big") + pack(windows.fields)


def pack_windows(windows: Windows, pack: Pack) -> bytes:
    """Pack windows whose fields are all scalars."""
    return pack(extension((WINDOWS, _write(windows, pack))))


SHAPE = Shape(WINDOWS, _write, lambda windows: windows.fields)
"""How :class:`Windows` are written."""


class WindowsReader:
    """Read :class:`Windows` as Bytewax's snapshot.

    :arg classes: Finds Bytewax's.
    """

    def __init__(self, classes: Classes) -> None:
        self._classes = classes

    def __call__(self, data: bytes, unpack: Unpack) -> Any:
        """Read one.

        :raises DecodeError: If a newer version wrote it, or Bytewax can't be imported.
        """
        return self.whole(Windows(data[0], unpack(data[1:])))

    def whole(self, windows: Windows) -> Any:
        """Make Bytewax's snapshot of what was written short.

        :raises DecodeError: As above.
        """
        kind, fields = windows
        if kind not in (FIXED, SESSIONS):
            raise DecodeError(
                f"windows of kind {kind}: written by a newer version",
                "upgrade bytewax-redis-state to read them",
            )
        read = self._sessions if kind == SESSIONS else self._fixed
        clock = self._class("_EventClockState")(_time(fields[0]), _time(fields[1]))
        end = 3 + 2 * fields[2]
        waiting = [(value, _time(at)) for value, at in _in_turn(fields[3:end], 2)]
        return self._class("_WindowSnapshot")(clock, *read(fields[end:]), waiting)

    def _class(self, name: str) -> Any:
        return self._classes.find(_MODULE, name)

    def _fixed(self, fields: list[Any]) -> tuple[Any, dict[int, Any]]:
        metadata = self._class("WindowMetadata")
        opened, states = {}, {}
        for window_id, start, length, state in _in_turn(fields, 4):
            opened[window_id] = metadata(_time(start), _time(start + length))
            states[window_id] = state
        return self._class("_SlidingWindowerState")(opened), states

    def _sessions(self, fields: list[Any]) -> tuple[Any, dict[int, Any]]:
        metadata = self._class("WindowMetadata")
        largest, merges = fields[:2]
        sessions, states = {}, {}
        for window_id, start, length, merged, state in _in_turn(fields[2:], 5):
            times = _time(start), _time(start + length)
            sessions[window_id] = metadata(*times, set(merged or ()))
            states[window_id] = state
        return self._class("_SessionWindowerState")(largest, sessions, merges or []), states


def _in_turn(fields: list[Any], size: int) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(fields)] * size, strict=True)


def _time(number: int) -> datetime:
    return _EPOCH + timedelta(microseconds=number)
