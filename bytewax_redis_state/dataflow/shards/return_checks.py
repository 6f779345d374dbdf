"""What a logic's methods may return: exactly what the engine takes, refused in its words."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from bytewax.errors import BytewaxRuntimeError

__all__ = ["checked_emit", "checked_time"]


def _has_items(value: Any) -> bool:
    # What Rust asks as well; Python has no other name for it.
    return bool(ctypes.pythonapi.PySequence_Check(ctypes.py_object(value)))


def _is_bool(value: Any) -> bool:
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool_", "bool"))


def checked_emit(result: Any) -> tuple[Sequence[Any], bool]:
    """Take apart what ``on_batch``, ``on_notify`` or ``on_eof`` returned.

    :arg result: Should be ``(emit, is_complete)``.
    :returns: What to emit, and whether to discard the logic.
    :raises BytewaxRuntimeError: If the engine would refuse it.
    """
    got = f"got a `{type(result).__qualname__}` instead"
    if not isinstance(result, tuple) or tuple.__len__(result) != 2:
        raise BytewaxRuntimeError(f"did not return a 2-tuple of `(emit, is_complete)`; {got}")
    emit, is_complete = tuple.__iter__(result)
    if not _is_bool(is_complete):
        got = f"got a `{type(is_complete).__qualname__}` instead"
        raise BytewaxRuntimeError(f"`is_complete` was not a `bool`; {got}")
    if isinstance(emit, str) or not _has_items(emit):
        got = f"got a `{type(emit).__qualname__}` instead"
        raise BytewaxRuntimeError(f"`emit` was not a `list`; {got}")
    return list(emit), bool(is_complete)


def checked_time(result: Any) -> datetime:
    """Take what ``notify_at`` returned, other than ``None``.

    :arg result: Should be a ``datetime`` in UTC.
    :returns: The same.
    :raises BytewaxRuntimeError: If the engine would refuse it.
    """
    if isinstance(result, datetime) and result.tzinfo == timezone.utc:
        return result
    got = f"got a `{type(result).__qualname__}` instead"
    error = BytewaxRuntimeError(f"did not return a `datetime`; {got}")
    if isinstance(result, datetime):
        raise error from ValueError("expected datetime.timezone.utc")
    raise error
