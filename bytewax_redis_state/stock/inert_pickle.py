"""An inert unpickler: reads the structure of a pickled state, and runs none of its code.

A row of Bytewax's recovery files is a pickle, and loading a pickle calls every class and function
that it names. Invariant: each name in a row becomes a stand-in of this module. Nothing is imported,
and a stand-in does nothing with what it is given.

Python's unpickler believes the sizes in a pickle: 50 bytes make it take gigabytes, or hash a tuple
of tuples for years. So the opcodes are looked at first (:func:`_is_modest`).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

__all__ = ["LARGEST_IDLE_WINDOW", "is_idle_window"]

LARGEST_IDLE_WINDOW = 4096
"""Bytes of the largest pickle that is read: a larger window state is never idle."""

_WINDOWING = "bytewax.operators.windowing"
# A window state names both within its first bytes. Rows of other operators are not unpickled.
_NAMED_FIRST = (_WINDOWING.encode(), b"_WindowSnapshot")
_FIRST_BYTES = 96


class _StandIn:
    """Takes the place of a class or function that a row names."""

    state: Any = None

    def __new__(cls, *args: object, **fields: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *args: object, **fields: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        # Without this method a row could set attributes of the class, for all rows after it.
        self.state = state

    def __call__(self, *args: object, **fields: object) -> _StandIn:
        return _StandIn()

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Ignore an item that a row adds to a list of a class of its own."""

    extend = add = append


class _WindowStateStandIn(_StandIn):
    """Takes the place of the state of all windows of one key."""


class _SlidingStandIn(_StandIn):
    """Takes the place of the open windows of a tumbling or sliding windower."""


class _SessionStandIn(_StandIn):
    """Takes the place of the open sessions of a session windower."""


_KNOWN: dict[tuple[str, str], type[_StandIn]] = {
    (_WINDOWING, "_WindowSnapshot"): _WindowStateStandIn,
    (_WINDOWING, "_SlidingWindowerState"): _SlidingStandIn,
    (_WINDOWING, "_SessionWindowerState"): _SessionStandIn,
}
_OPEN_FIELD: dict[type, str] = {_SlidingStandIn: "opened", _SessionStandIn: "sessions"}


class _InertUnpickler(pickle.Unpickler):
    """Builds a row's structure out of stand-ins."""

    def find_class(self, module_name: str, global_name: str, /) -> type[_StandIn]:
        return _KNOWN.get((module_name, global_name), _StandIn)


_LINES = {"GLOBAL": 2, "INST": 2}
# Takes memory for its argument, or moves what is below the top of the stack.
_IMMODEST = {"BYTEARRAY8", "PUT", "LONG_BINPUT", "POP", "POP_MARK", "DUP", "GET"}
_LEAVES_OLDER = {"BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def _width(opcode: pickletools.OpcodeInfo) -> tuple[int, int, int]:
    """Give the bytes of an argument, those of its length, and the lines that it takes."""
    n = 0 if opcode.arg is None else opcode.arg.n
    if n == pickletools.UP_TO_NEWLINE:
        return 0, 0, _LINES.get(opcode.name, 1)
    lengths = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }
    return max(n, 0), lengths.get(n, 0), 0


_OPCODES = {ord(op.code): (op.name, *_width(op)) for op in pickletools.opcodes}


def _is_modest(data: bytes) -> bool:
    """Tell whether an unpickler takes no more memory and time for a pickle than its size allows.

    Each argument ends within the pickle, the memo grows by one at a time, and no tuple is put into
    another one twice: hashing a tuple takes as long as all that is inside, each time.
    """
    at, before, memo, tuples = 0, "", 0, set()
    while at < len(data):
        name, fixed, prefix, lines = _OPCODES.get(data[at], ("PUT", 0, 0, 0))
        if name in _IMMODEST:
            return False
        start = at + 1
        at = start + fixed + prefix + int.from_bytes(data[start : start + prefix], "little")
        for _ in range(lines):
            at = data.find(b"\n", at) + 1 or len(data) + 1
        if at > len(data):
            return False
        if name in ("MEMOIZE", "BINPUT"):
            slot = memo if name == "MEMOIZE" else data[start]
            if before in _LEAVES_OLDER or slot > memo:
                return False
            memo = max(memo, slot + 1)
            tuples |= {slot} if before in _TUPLES else set()
        elif name in ("BINGET", "LONG_BINGET"):
            if int.from_bytes(data[start:at], "little") in tuples:
                return False
        elif name == "STOP":
            return True
        before = before if name in ("PROTO", "FRAME") else name
    return False


def is_idle_window(change: bytes) -> bool:
    """Tell whether a row is a window state without open windows and without queued values.

    :arg change: A row's pickle.
    :returns: ``False`` for every row that is not certainly such a state, damaged rows included.
    """
    head = change[:_FIRST_BYTES]
    if len(change) > LARGEST_IDLE_WINDOW or not all(name in head for name in _NAMED_FIRST):
        return False
    if not _is_modest(change):
        return False
    try:
        snapshot = _InertUnpickler(io.BytesIO(change)).load()
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything, and is no window
        return False
    return type(snapshot) is _WindowStateStandIn and _is_idle(snapshot.state)


def _is_idle(fields: object) -> bool:
    if not isinstance(fields, dict):
        return False
    windower = fields.get("windower_state")
    if not isinstance(windower, _StandIn) or not isinstance(windower.state, dict):
        return False
    # A windower of the user's own has no field that is known here, so it never counts as idle.
    still_open = windower.state.get(_OPEN_FIELD.get(type(windower), ""))
    return fields.get("logic_states") == {} and fields.get("queue") == [] and still_open == {}
