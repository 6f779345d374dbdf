"""Compact states: all windows of one key, or a join, as an array of numbers and values.

Bytewax keeps a window as dataclasses inside a dataclass. Packed with the names of their fields, and
a level of packing for each, they take eight times the time and five times the bytes. So the shards
hand over the numbers of which a state consists, and the codec reads them as Bytewax's snapshot: no
other reader has to know. A state that the numbers can't hold (other time zones, clocks or windowers
of the user's own) stays a dataclass.

Extension type 19: one byte for the kind, then a msgpack array.

====  ==================  ==============================================================
kind  state               array
====  ==================  ==============================================================
1     windows of fixed    since, base, queue, then of each window: ID, start, length,
      length              state
2     session windows     since, base, queue, largest ID, pending merges, then of each
                          window: ID, start, length, merged IDs, state
3     join                of each side: the number of its values, then the values
====  ==================  ==============================================================

Since and base are the times of the event clock. The queue is the number of waiting values, then
value and time of each. Times are microseconds since 1970 in UTC, lengths are microseconds, and
other empty fields are nil.

Invariant: a compact state is read as Bytewax's ``_WindowSnapshot`` or ``_JoinState``, equal to the
one that was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from bytewax_redis_state.codec.extension_types import extension
from bytewax_redis_state.codec.type_format import (
    Pack,
    TypeFormat,
    Unpack,
    read_list,
    wrong_type,
)
from bytewax_redis_state.errors import DecodeError

__all__ = [
    "COMPACT_STATE",
    "EPOCH",
    "FIXED",
    "JOIN",
    "SESSIONS",
    "TICK",
    "CompactState",
    "CompactStateReader",
    "microseconds",
    "pack_compact_state",
]

COMPACT_STATE = 19
"""Code of the extension type."""
FIXED, SESSIONS, JOIN = 1, 2, 3
"""Kinds."""

_WINDOWING = "bytewax.operators.windowing"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""The time from which microseconds are counted."""
TICK = timedelta(microseconds=1)
"""One microsecond."""


class CompactState(NamedTuple):
    """A state as the shards hand it over; it is read as Bytewax's snapshot.

    :arg kind: :data:`FIXED`, :data:`SESSIONS` or :data:`JOIN`.
    :arg fields: The array of the table above.
    """

    kind: int
    fields: list[Any]


def microseconds(time: datetime) -> int:
    """Count the microseconds since 1970 of a time in UTC."""
    return (time - EPOCH) // TICK


def _write(compact: CompactState, pack: Pack) -> bytes:
    return compact.kind.to_bytes(1, "big") + pack(compact.fields)


def pack_compact_state(compact: CompactState, pack: Pack) -> bytes:
    """Pack a state whose fields are all scalars."""
    return pack(extension((COMPACT_STATE, _write(compact, pack))))


COMPACT_FORMAT = TypeFormat(COMPACT_STATE, _write, lambda compact: compact.fields)
"""The format of a :class:`CompactState`."""


class CompactStateReader:
    """Read a :class:`CompactState` as Bytewax's snapshot.

    :arg find: Finds a class of Bytewax by its module and its name.
    """

    def __init__(self, find: Callable[[str, str], Any]) -> None:
        self._find = find

    def __call__(self, data: bytes, unpack: Unpack) -> Any:
        """Read one.

        :raises DecodeError: If a newer version wrote it, or Bytewax can't be imported.
        """
        return self.whole(CompactState(data[0], read_list(data[1:], unpack, "a compact state")))

    def whole(self, compact: CompactState) -> Any:
        """Make Bytewax's snapshot of a compact state.

        :raises DecodeError: As above.
        """
        kind, fields = compact
        if kind == JOIN:
            return self._join(fields)
        if kind not in (FIXED, SESSIONS):
            raise DecodeError(
                f"a compact state has the kind {kind}: a newer version wrote it",
                "upgrade bytewax-redis-state to read it",
            )
        read = self._sessions if kind == SESSIONS else self._fixed
        clock = self._class("_EventClockState")(_time(fields[0]), _time(fields[1]))
        end = 3 + 2 * _count(fields[2])
        waiting = [(value, _time(at)) for value, at in _in_turn(fields[3:end], 2)]
        return self._class("_WindowSnapshot")(clock, *read(fields[end:]), waiting)

    def _class(self, name: str) -> Any:
        return self._find(_WINDOWING, name)

    def _join(self, fields: list[Any]) -> Any:
        seen, at = [], 0
        while at < len(fields):
            start, at = at + 1, at + 1 + _count(fields[at])
            if not start <= at <= len(fields):
                raise DecodeError(
                    f"a side of a join claims {fields[start - 1]} values, more than there are",
                    "the value is damaged; restore it from a savepoint",
                )
            seen.append(fields[start:at])
        return self._find("bytewax.operators", "_JoinState")(seen)

    def _fixed(self, fields: list[Any]) -> tuple[Any, dict[int, Any]]:
        metadata = self._class("WindowMetadata")
        opened, states = {}, {}
        for window_id, start, length, state in _in_turn(fields, 4):
            opened[_count(window_id)] = metadata(*_times(start, length))
            states[window_id] = state
        return self._class("_SlidingWindowerState")(opened), states

    def _sessions(self, fields: list[Any]) -> tuple[Any, dict[int, Any]]:
        metadata = self._class("WindowMetadata")
        largest, merges = fields[:2]
        if merges is not None and type(merges) is not list:
            raise wrong_type("session windows", "a list of merges", merges)
        sessions, states = {}, {}
        for window_id, start, length, merged, state in _in_turn(fields[2:], 5):
            if merged is not None and type(merged) is not list:
                raise wrong_type("a session window", "a list of merged IDs", merged)
            ids = set(map(_count, merged or ()))
            sessions[_count(window_id)] = metadata(*_times(start, length), ids)
            states[window_id] = state
        return self._class("_SessionWindowerState")(_count(largest), sessions, merges or []), states


def _in_turn(fields: list[Any], size: int) -> Iterable[tuple[Any, ...]]:
    return zip(*[iter(fields)] * size, strict=True)


def _count(number: object) -> int:
    if type(number) is not int:
        raise wrong_type("a compact state", "an integer", number)
    return number


def _time(number: object) -> datetime:
    return EPOCH + timedelta(microseconds=_count(number))


def _times(start: object, length: object) -> tuple[datetime, datetime]:
    return _time(start), _time(_count(start) + _count(length))
