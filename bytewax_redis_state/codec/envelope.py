"""The envelope: the bytes around the payload of one state, as Redis holds them.

=======  ====================  ==================================================================
offset   bytes                 holds
=======  ====================  ==================================================================
0        1                     ``0xB0 | format version``; this is version 1
1        1                     codec in the low four bits, flags in the high four
2        4                     CRC-32, little-endian, of bytes 0-1, the state key, bytes 6 to end
6        1 + its length        key ID, after a byte with its length; only with flag ``KEY_ID``
then     6                     deadline, milliseconds since 1970, big-endian; only with ``DEADLINE``
then     to the end            payload
=======  ====================  ==================================================================

Two flags are free. A reader refuses what it doesn't know, so they can be given a meaning later.

Invariant: no payload is handed out before the check sum agreed, and it covers the state key, so
that damaged bytes and swapped values are both noticed. It does not stop a forger.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn
from zlib import crc32

from bytewax_redis_state.errors import DecodeError

__all__ = [
    "MSGPACK",
    "MSGPACK_TUPLE",
    "OVERHEAD",
    "PICKLE",
    "PLAIN_HEAD",
    "Envelope",
    "is_sound",
    "open_envelope",
    "seal",
]

MSGPACK = 0
"""Codec: the payload is one msgpack value with the extension types of :mod:`.shapes`."""
MSGPACK_TUPLE = 1
"""Codec: as :data:`MSGPACK`; the value is an array that stands for a tuple."""
PICKLE = 2
"""Codec: the payload is a pickle."""

OVERHEAD = 6
"""Bytes that an envelope without key ID and deadline adds to its payload."""

_MAGIC = 0xB0
_VERSION = 1
_KEY_ID = 0x10
_DEADLINE = 0x20
_FLAGS = _KEY_ID | _DEADLINE
_CODECS = (MSGPACK, MSGPACK_TUPLE, PICKLE)
_DEADLINE_BYTES = 6

_HEADS = tuple(bytes([_MAGIC | _VERSION, kind]) for kind in range(256))
PLAIN_HEAD = _HEADS[MSGPACK]
"""How most envelopes begin: this version, one msgpack value, no fields."""
_HEAD_SUMS = tuple(crc32(head) for head in _HEADS)


class Envelope(NamedTuple):
    """What an envelope holds.

    :arg codec: How the payload became bytes.
    :arg payload: The encoded state.
    :arg key_id: Which key a later stage used; empty for none.
    :arg deadline: When the state expires, milliseconds since 1970, or ``None``.
    """

    codec: int
    payload: bytes
    key_id: bytes = b""
    deadline: int | None = None


def seal(
    state_key: str,
    codec: int,
    payload: bytes,
    *,
    key_id: bytes = b"",
    deadline: int | None = None,
) -> bytes:
    """Make the bytes that Redis holds for one state; for arguments see :class:`Envelope`.

    :arg state_key: Whose state this is; goes into the check sum.
    :returns: The envelope's bytes.
    :raises ValueError: If the key ID is longer than 255 bytes.
    :raises OverflowError: If the deadline is negative or beyond the year 10889.
    """
    kind, body = codec, payload
    if deadline is not None:
        kind |= _DEADLINE
        body = deadline.to_bytes(_DEADLINE_BYTES, "big") + body
    if key_id:
        kind |= _KEY_ID
        body = bytes([len(key_id)]) + key_id + body
    return _HEADS[kind] + _check_sum(kind, state_key, body).to_bytes(4, "little") + body


def open_envelope(state_key: str, data: bytes) -> Envelope:
    """Check an envelope and take it apart.

    :arg state_key: Whose state this should be.
    :arg data: From :func:`seal`.
    :returns: What it holds.
    :raises DecodeError: If the bytes are damaged, another key's, or from a newer version; names
        the key.
    """
    if len(data) < OVERHEAD or data[0] != _MAGIC | _VERSION:
        _refuse_start(state_key, data)
    kind, body = data[1], data[OVERHEAD:]
    if _check_sum(kind, state_key, body) != int.from_bytes(data[2:OVERHEAD], "little"):
        raise DecodeError(
            f"the value of key {state_key!r} fails its check sum: damaged, or another key's",
            "restore it from a savepoint, or delete the key to let its state start anew",
        )
    if kind in _CODECS:
        return Envelope(kind, body)
    return _open_fields(state_key, kind, body)


def is_sound(state_key: bytes, data: bytes) -> bool:
    """Tell whether an envelope passes its check sum, without taking it apart.

    :arg state_key: Whose state this should be, as UTF-8.
    :arg data: From :func:`seal`, perhaps.
    :returns: False where it is damaged or another key's; a newer version's may pass.
    """
    stored = int.from_bytes(data[2:OVERHEAD], "little")
    return crc32(data[OVERHEAD:], crc32(state_key, crc32(data[:2]))) == stored


def _check_sum(kind: int, state_key: str, body: bytes) -> int:
    return crc32(body, crc32(state_key.encode(), _HEAD_SUMS[kind]))


def _open_fields(state_key: str, kind: int, body: bytes) -> Envelope:
    codec, flags = kind & 0x0F, kind & 0xF0
    if codec not in _CODECS:
        _refuse_newer(state_key, f"codec {codec}")
    if flags & ~_FLAGS:
        _refuse_newer(state_key, f"flags 0x{flags:02x}")
    key_id, deadline = b"", None
    if flags & _KEY_ID:
        end = 1 + body[0] if body else 1
        key_id, body = _cut(state_key, body, end)[1:], body[end:]
    if flags & _DEADLINE:
        deadline = int.from_bytes(_cut(state_key, body, _DEADLINE_BYTES), "big")
        body = body[_DEADLINE_BYTES:]
    return Envelope(codec, body, key_id, deadline)


def _cut(state_key: str, body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise DecodeError(f"the value of key {state_key!r} ends inside its header")
    return body[:size]


def _refuse_start(state_key: str, data: bytes) -> NoReturn:
    if data and data[0] & 0xF0 == _MAGIC and data[0] & 0x0F > _VERSION:
        _refuse_newer(state_key, f"format version {data[0] & 0x0F}")
    raise DecodeError(
        f"the value of key {state_key!r} is no state: it has {len(data)} bytes and starts with "
        f"{data[:2].hex() or 'nothing'}",
        "it is damaged, or something else wrote to this key",
    )


def _refuse_newer(state_key: str, what: str) -> NoReturn:
    raise DecodeError(
        f"the value of key {state_key!r} has {what}: written by a newer version",
        "upgrade bytewax-redis-state to read it",
    )
