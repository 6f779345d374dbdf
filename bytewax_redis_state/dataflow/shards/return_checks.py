"""Checks of the return values of a user's logic: a shard calls it, so the engine can't check them.

Invariant: a value passes exactly if the engine would accept it, and is refused in its words.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from bytewax.errors import BytewaxRuntimeError

__all__ = ["checked_emit", "checked_time"]


def _has_items(value: Any) -> bool:
    # The engine asks the same C function; Python has no other name for it.
    return bool(ctypes.pythonapi.PySequence_Check(ctypes.py_object(value)))


def _is_bool(value: Any) -> bool:
    kind = type(value)
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool_", "bool"))


def checked_emit(result: Any) -> tuple[Sequence[Any], bool]:
    """Check and take apart the return value of ``on_batch``, ``on_notify`` or ``on_eof``.

    :arg result: Should be ``(emit, is_complete)``.
    :returns: The items to emit, and whether to discard the logic.
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
    """Check the return value of ``notify_at``, other than ``None``.

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
