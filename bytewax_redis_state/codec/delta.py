"""Deltas as bytes: what one cell changed in one epoch, and what a resume hands back to it.

A delta is a msgpack map ``{state key: envelope, or nil where the key was deleted}``. A shard makes
it when an epoch closes; the outbox and the journal carry it unread; a fold takes it apart.

A restored cell comes back as one or more pieces, each a msgpack array ``[shard, more, {state key:
envelope}]``, where ``more`` says that another piece of the same shard follows in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import msgpack

from bytewax_redis_state.errors import DecodeError

__all__ = ["Piece", "pack_delta", "pack_piece", "unpack_delta", "unpack_piece"]


class Piece(NamedTuple):
    """A part of a restored cell."""

    shard: int
    more: bool
    states: dict[str, bytes]


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
        return cast("dict[str, bytes | None]", msgpack.unpackb(data, raw=False))
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"a delta of {len(data)} bytes can't be read: {error}") from error


def pack_piece(shard: int, states: Mapping[str, bytes], *, more: bool) -> bytes:
    """Encode a part of a restored cell.

    :arg shard: Whose states these are.
    :arg states: State key to envelope.
    :arg more: Whether another piece of this shard follows.
    :returns: The piece.
    """
    return cast(bytes, msgpack.packb((shard, more, states), use_bin_type=True))


def unpack_piece(data: bytes) -> Piece:
    """Decode a part of a restored cell.

    :arg data: From :func:`pack_piece`.
    :returns: The piece.
    :raises DecodeError: If the bytes are no piece.
    """
    try:
        return Piece(*msgpack.unpackb(data, raw=False))
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        message = f"a restored piece of {len(data)} bytes can't be read: {error}"
        raise DecodeError(message) from error
