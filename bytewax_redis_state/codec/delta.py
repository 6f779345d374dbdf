"""Deltas as bytes: what one cell changed in one epoch.

A delta is a msgpack map ``{state key: envelope, or nil where the key was deleted}``. A shard makes
it when an epoch closes; the outbox and the journal carry it unread; a fold takes it apart.

A delta of a step whose state was ever pickled is marked: it is in a msgpack array
``[true, delta]``, also where it is a full one. The replicator takes the mark off, and sees to it
that the manifest knows of the step.

A shard that was asked for a full snapshot answers with a msgpack array ``[number of the request,
awaited, delta]``, whose delta holds all keys of the shard. The replicator ships the delta alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import msgpack

from bytewax_redis_state.errors import DecodeError

__all__ = [
    "FullDelta",
    "mark_pickled",
    "pack_delta",
    "pack_full_delta",
    "unpack_changes",
    "unpack_full_delta",
    "unpack_mark",
]

_CHANGES = {bytes, type(None)}
_ARRAY_OF_3 = b"\x93"  # a delta begins as a map
_MARK = b"\x92\xc3"  # an array of two, the first of which is true


class FullDelta(NamedTuple):
    """A shard's answer to a request for a full snapshot.

    :arg request: Number of the request.
    :arg awaited: Whether the requester waits for this answer.
    :arg delta: All keys of the cell, and those that were deleted in the epoch.
    """

    request: int
    awaited: bool
    delta: bytes


def mark_pickled(delta: bytes) -> bytes:
    """Mark a delta, which may be a full one, as one of a step whose state was ever pickled."""
    return cast(bytes, msgpack.packb((True, delta), use_bin_type=True))


def unpack_mark(data: bytes) -> tuple[bytes, bool]:
    """Take the mark off a delta.

    :arg data: From any function here that packs.
    :returns: The delta, and whether it was marked.
    :raises DecodeError: If it is a damaged marked delta.
    """
    if not data.startswith(_MARK):
        return data, False
    try:
        _, delta = msgpack.unpackb(data, raw=False, max_array_len=2)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a marked delta of {len(data)} bytes can't be read: {error}") from error
    if type(delta) is not bytes:
        raise DecodeError(f"a marked delta of {len(data)} bytes holds other types than expected")
    return delta, True


def pack_full_delta(request: int, delta: bytes, *, awaited: bool) -> bytes:
    """Encode a shard's answer to a request for a full snapshot.

    :arg request: Number of the request.
    :arg delta: All keys of the cell, and those that were deleted in the epoch.
    :arg awaited: Whether the requester waits for this answer.
    :returns: The full delta.
    """
    return cast(bytes, msgpack.packb((request, awaited, delta), use_bin_type=True))


def unpack_full_delta(data: bytes) -> FullDelta | None:
    """Decode a full delta.

    :arg data: From :func:`pack_full_delta` or :func:`pack_delta`.
    :returns: The full delta; ``None`` for an ordinary delta.
    :raises DecodeError: If it is a damaged full delta.
    """
    if not data.startswith(_ARRAY_OF_3):
        return None
    try:
        full = FullDelta(*msgpack.unpackb(data, raw=False, max_array_len=3))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a full delta of {len(data)} bytes can't be read: {error}") from error
    if tuple(map(type, full)) != (int, bool, bytes):
        raise DecodeError(f"a full delta of {len(data)} bytes holds other types than expected")
    return full


def pack_delta(changes: Mapping[str, bytes | None]) -> bytes:
    """Encode what one cell changed in one epoch.

    :arg changes: State key to envelope, or ``None`` where the key was deleted.
    :returns: The delta.
    """
    return cast(bytes, msgpack.packb(changes, use_bin_type=True))


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
