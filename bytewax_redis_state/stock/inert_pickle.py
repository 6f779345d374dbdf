"""Look into a pickled state without letting it do anything.

A row of stock Bytewax is a pickle that somebody else's code made, and loading a pickle runs what it
names. Invariant: whatever a row names becomes a stand-in of this module; nothing is imported and
nothing real is called. Stand-ins take what they are given and do nothing with it.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

__all__ = ["LARGEST_IDLE_WINDOW", "is_idle_window"]

LARGEST_IDLE_WINDOW = 4096
"""A window state of more bytes has something in it, and is not looked into."""

_WINDOWING = "bytewax.operators.windowing"
# Rows of other operators are told apart by this, without being unpickled.
_MARKS = (_WINDOWING.encode(), b"_WindowSnapshot")
_MARKS_WITHIN = 96


class _Inert:
    """Stands in for every class and function that a row names."""

    state: Any = None

    def __new__(cls, *args: object, **fields: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **fields: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        # Also what keeps a row from setting attributes of the class itself, for the next row.
        self.state = state

    def __call__(self, *args: object, **fields: object) -> _Inert:
        return _Inert()

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Take what a row adds to a list of a class of its own."""

    extend = add = append


class _Snapshot(_Inert):
    """Stands in for the state of all windows of one key."""


class _Sliding(_Inert):
    """Stands in for the open windows of a tumbling or sliding windower."""


class _Session(_Inert):
    """Stands in for the open sessions of a session windower."""


_KNOWN: dict[tuple[str, str], type[_Inert]] = {
    (_WINDOWING, "_WindowSnapshot"): _Snapshot,
    (_WINDOWING, "_SlidingWindowerState"): _Sliding,
    (_WINDOWING, "_SessionWindowerState"): _Session,
}
_OPEN_FIELD: dict[type, str] = {_Sliding: "opened", _Session: "sessions"}


class _Reader(pickle.Unpickler):
    """Reads a row's structure; everything that it names is a stand-in."""

    def find_class(self, module_name: str, global_name: str, /) -> type[_Inert]:
        return _KNOWN.get((module_name, global_name), _Inert)


def is_idle_window(change: bytes) -> bool:
    """Tell whether a row is the state of windows of which none is open and nothing is queued.

    :arg change: A row's pickle.
    :returns: ``False`` for anything that is not surely such a state, damaged rows included.
    """
    head = change[:_MARKS_WITHIN]
    if len(change) > LARGEST_IDLE_WINDOW or not all(mark in head for mark in _MARKS):
        return False
    try:
        snapshot = _Reader(io.BytesIO(change)).load()
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything, and is no window
        return False
    return type(snapshot) is _Snapshot and _is_idle(snapshot.state)


def _is_idle(fields: object) -> bool:
    if not isinstance(fields, dict):
        return False
    windower = fields.get("windower_state")
    if not isinstance(windower, _Inert) or not isinstance(windower.state, dict):
        return False
    # A windower of the user's own has no known field, so it never counts as idle.
    still_open = windower.state.get(_OPEN_FIELD.get(type(windower), ""))
    return fields.get("logic_states") == {} and fields.get("queue") == [] and still_open == {}
