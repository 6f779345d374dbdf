"""Deltas as bytes: what one cell changed in one epoch.

A delta is a msgpack map ``{state key: envelope, or nil where the key was deleted}``. A shard makes
it when an epoch closes; the outbox and the journal carry it unread; a fold takes it apart.

A shard that was called for everything answers with a msgpack array ``[number of the call, counted,
delta]``, whose delta holds all of its keys; the replicator ships the delta alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import msgpack

from bytewax_redis_state.errors import DecodeError

__all__ = [
    "Answer",
    "pack_answer",
    "pack_delta",
    "unpack_answer",
    "unpack_changes",
    "unpack_delta",
]

_CHANGES = {bytes, type(None)}
_KEYS = {str}
_ARRAY_OF_3 = b"\x93"  # a delta begins as a map


class Answer(NamedTuple):
    """All that one cell holds.

    :arg number: Of the call.
    :arg counted: Whether the caller waits for this one.
    :arg delta: With all keys, and those that were deleted in the epoch.
    """

    number: int
    counted: bool
    delta: bytes


def pack_answer(number: int, delta: bytes, *, counted: bool) -> bytes:
    """Encode all that one cell holds.

    :arg number: Of the call.
    :arg delta: With all keys.
    :arg counted: Whether the caller waits for this one.
    :returns: The answer.
    """
    return cast(bytes, msgpack.packb((number, counted, delta), use_bin_type=True))


def unpack_answer(data: bytes) -> Answer | None:
    """Decode an answer.

    :arg data: From :func:`pack_answer` or :func:`pack_delta`.
    :returns: The answer; ``None`` for an ordinary delta.
    :raises DecodeError: If it is a damaged answer.
    """
    if not data.startswith(_ARRAY_OF_3):
        return None
    try:
        answer = Answer(*msgpack.unpackb(data, raw=False, max_array_len=3))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"an answer of {len(data)} bytes can't be read: {error}") from error
    if tuple(map(type, answer)) != (int, bool, bytes):
        raise DecodeError(f"an answer of {len(data)} bytes holds something else")
    return answer


def pack_delta(changes: Mapping[str, bytes | None]) -> bytes:
    """Encode what one cell changed in one epoch.

    :arg changes: State key to envelope, or ``None`` where the key was deleted.
    :returns: The delta.
    """
    return cast(bytes, msgpack.packb(changes, use_bin_type=True))


def unpack_delta(data: bytes) -> dict[str, bytes | None]:
    """Decode a delta.

    :arg data: From :func:`pack_delta`.
    :returns: State key to envelope, or ``None`` where the key was deleted.
    :raises DecodeError: If the bytes are no delta.
    """
    try:
        changes = msgpack.unpackb(data, raw=False, max_array_len=0)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a delta of {len(data)} bytes can't be read: {error}") from error
    if type(changes) is not dict or not _CHANGES.issuperset(map(type, changes.values())):
        raise DecodeError(f"a delta of {len(data)} bytes holds something else than changes")
    if not _KEYS.issuperset(map(type, changes)):
        raise DecodeError(f"a delta of {len(data)} bytes holds a state key that is no text")
    return cast("dict[str, bytes | None]", changes)


def unpack_changes(data: bytes) -> dict[bytes, bytes | None]:
    """Decode a delta for a fold, which has no use for text: a million keys go by.

    :arg data: From :func:`pack_delta`.
    :returns: State key as UTF-8 to envelope, or ``None`` where the key was deleted.
    :raises DecodeError: If the bytes are no delta.
    """
    try:
        changes = msgpack.unpackb(data, raw=True, max_array_len=0)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a delta of {len(data)} bytes can't be read: {error}") from error
    if type(changes) is not dict or not _CHANGES.issuperset(map(type, changes.values())):
        raise DecodeError(f"a delta of {len(data)} bytes holds something else than changes")
    try:
        b"\0".join(changes).decode()  # all keys at once
    except (TypeError, UnicodeDecodeError):
        what = f"a delta of {len(data)} bytes holds a state key that is no text"
        raise DecodeError(what) from None
    return cast("dict[bytes, bytes | None]", changes)
