"""The envelope: the bytes around the payload of one state, as Redis holds them.

=======  ====================  ==================================================================
offset   bytes                 holds
=======  ====================  ==================================================================
0        1                     ``0xB0 | format version``; this is version 1
1        1                     codec in the low four bits, flags in the high four
2        4                     CRC-32, little-endian, of bytes 0-1, the state key, bytes 6 to end
6        1 + its length        encryption key ID, after its length; only with flag ``KEY_ID``
then     6                     deadline, ms of the flow's time, big-endian; only with ``DEADLINE``
then     1 + its length        signing key ID, after its length; only with flag ``SIGNED``
then     to the end, or the    payload; with ``COMPRESSED`` as :mod:`.compression` has it, inside
         signature             the encryption; with ``KEY_ID`` a nonce of 12 bytes, the AES-GCM
                               cipher text and its tag of 16
last     32                    HMAC-SHA256 of names, bytes 0-1, bytes 6 to here; with ``SIGNED``
=======  ====================  ==================================================================

All flags are taken: another field needs a new format version. A reader refuses a version or codec
that it does not know. "Names" are namespace, flow, step and state key (:class:`.AssociatedData`).

Invariant: a payload is given out only if the check sum agrees. It covers the state key, so that
damaged bytes and swapped values are both noticed. It does not stop a forger: a signature does.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple, NoReturn
from zlib import crc32

from bytewax_redis_state.errors import DecodeError

__all__ = [
    "DEADLINE_WITHIN",
    "MSGPACK",
    "MSGPACK_TUPLE",
    "OVERHEAD",
    "PICKLE",
    "PLAIN_STARTS",
    "SIGNATURE_BYTES",
    "Envelope",
    "any_protected",
    "are_sound",
    "close_envelope",
    "deadline_of",
    "head_of",
    "is_pickle",
    "is_protected",
    "is_sound",
    "key_bytes",
    "key_ids_of",
    "keys_with_deadline",
    "open_envelope",
    "plain_start",
    "seal",
    "seal_plain",
]

MSGPACK = 0
"""Codec: the payload is one msgpack value with the extension types of :mod:`.extension_types`."""
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
_COMPRESSED = 0x40
_SIGNED = 0x80
_CODECS = (MSGPACK, MSGPACK_TUPLE, PICKLE)
_DEADLINE_BYTES = 6
SIGNATURE_BYTES = 32
"""Bytes that a signature takes at the end of an envelope."""

DEADLINE_WITHIN = OVERHEAD + 1 + 255 + _DEADLINE_BYTES
"""An envelope's deadline, if it has one, lies within this number of bytes at its start."""

_HEADS = tuple(bytes([_MAGIC | _VERSION, kind]) for kind in range(256))
_HEAD_SUMS = tuple(crc32(head) for head in _HEADS)
_first, _second = itemgetter(0), itemgetter(1)
_stored_sum, _body = itemgetter(slice(2, OVERHEAD)), itemgetter(slice(OVERHEAD, None))
PLAIN_STARTS = {
    _HEADS[codec | flag]: (codec, OVERHEAD + size)
    for codec in (MSGPACK, MSGPACK_TUPLE)
    for flag, size in ((0, 0), (_DEADLINE, _DEADLINE_BYTES))
}
"""First two bytes of the most common envelopes, to their codec and the start of their payload: this
version, a msgpack value, no field or a deadline only."""


class Envelope(NamedTuple):
    """The content of an envelope.

    :arg codec: How the payload became bytes.
    :arg payload: The encoded state.
    :arg key_id: Which key the payload is encrypted with; empty for none.
    :arg deadline: When the state expires, milliseconds of the flow's time (the server's clock since
        1970, less all downtime), or ``None``.
    :arg compressed: Whether the payload was compressed, before it was encrypted.
    :arg signer: Which key the envelope is signed with; empty for none.
    :arg signature: By that key.
    """

    codec: int
    payload: bytes
    key_id: bytes = b""
    deadline: int | None = None
    compressed: bool = False
    signer: bytes = b""
    signature: bytes = b""


def key_bytes(state_key: str | bytes) -> bytes:
    """Give a state key as check sums and signatures cover it: text as UTF-8."""
    return state_key if isinstance(state_key, bytes) else state_key.encode()


def seal_plain(
    state_key: str | bytes, codec: int, payload: bytes, deadline: int | None = None
) -> bytes:
    """Make the bytes that Redis holds for one state, without key ID; arguments as :func:`seal`.

    :returns: The same bytes as :func:`seal`, in less time.
    :raises OverflowError: As :func:`seal`.
    """
    key = state_key if isinstance(state_key, bytes) else state_key.encode()
    if deadline is not None:
        codec |= _DEADLINE
        payload = deadline.to_bytes(_DEADLINE_BYTES, "big") + payload
    check_sum = crc32(payload, crc32(key, _HEAD_SUMS[codec]))
    return _HEADS[codec] + check_sum.to_bytes(4, "little") + payload


def plain_start(codec: int, deadline: int | None) -> tuple[bytes, int, bytes]:
    """Give the start that many envelopes without key ID share; arguments as :func:`seal`.

    :returns: Bytes 0-1, their check sum, and the fields before the payload.
    :raises OverflowError: As :func:`seal`.
    """
    if deadline is None:
        return _HEADS[codec], _HEAD_SUMS[codec], b""
    kind = codec | _DEADLINE
    return _HEADS[kind], _HEAD_SUMS[kind], deadline.to_bytes(_DEADLINE_BYTES, "big")


def seal(
    state_key: str | bytes,
    codec: int,
    payload: bytes,
    *,
    key_id: bytes = b"",
    deadline: int | None = None,
) -> bytes:
    """Make the bytes that Redis holds for one state, unsigned; arguments as :class:`Envelope`.

    :arg state_key: Whose state this is; goes into the check sum.
    :returns: The envelope's bytes.
    :raises ValueError: If the key ID is longer than 255 bytes.
    :raises OverflowError: If the deadline is negative or beyond the year 10889.
    """
    return close_envelope(state_key, head_of(codec, key_id=key_id, deadline=deadline) + payload)


def head_of(
    codec: int,
    *,
    key_id: bytes = b"",
    deadline: int | None = None,
    compressed: bool = False,
    signer: bytes = b"",
) -> bytes:
    """Make the header without its check sum; for arguments see :class:`Envelope`.

    :returns: Bytes 0-1 and the fields.
    :raises ValueError: If a key ID is longer than 255 bytes.
    :raises OverflowError: If the deadline is negative or beyond the year 10889.
    """
    kind = codec | (_COMPRESSED if compressed else 0)
    fields = b""
    if key_id:
        kind |= _KEY_ID
        fields += bytes([len(key_id)]) + key_id
    if deadline is not None:
        kind |= _DEADLINE
        fields += deadline.to_bytes(_DEADLINE_BYTES, "big")
    if signer:
        kind |= _SIGNED
        fields += bytes([len(signer)]) + signer
    return _HEADS[kind] + fields


def close_envelope(state_key: str | bytes, content: bytes) -> bytes:
    """Put the check sum into an envelope.

    :arg state_key: Whose state this is.
    :arg content: From :func:`head_of`, then the payload, then the signature if there is one.
    :returns: The envelope's bytes.
    """
    check_sum = _check_sum(content[1], state_key, body := content[2:])
    return content[:2] + check_sum.to_bytes(4, "little") + body


def open_envelope(state_key: str | bytes, data: bytes) -> Envelope:
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
            f"the value of key {state_key!r} fails its check sum: it is damaged, or another key's",
            "restore it from a savepoint, or delete the key, which then starts without state",
        )
    if kind in _CODECS:
        return Envelope(kind, body)
    return _open_fields(state_key, kind, body)


def deadline_of(data: bytes) -> int | None:
    """Read the deadline of an envelope; the caller checks the envelope itself.

    :arg data: From :func:`seal` or :func:`close_envelope`; :data:`DEADLINE_WITHIN` bytes will do.
    :returns: Milliseconds of the flow's time; ``None`` where the envelope has no deadline, ends too
        soon, or is not of this version.
    """
    if data[:1] != _HEADS[0][:1] or not data[1:2] or not data[1] & _DEADLINE:
        return None
    start = OVERHEAD
    if data[1] & _KEY_ID and len(data) > OVERHEAD:
        start += 1 + data[OVERHEAD]
    field = data[start : start + _DEADLINE_BYTES]
    return int.from_bytes(field, "big") if len(field) == _DEADLINE_BYTES else None


def keys_with_deadline(states: Mapping[str, bytes]) -> list[str]:
    """Find the envelopes that have a deadline; fast, because a restart looks at a million.

    :arg states: State key to envelope, each checked already.
    :returns: The keys of those that have one.
    """
    if not any(kind & _DEADLINE for kind in _kinds(states.values())):
        return []
    return [key for key, data in states.items() if data[1] & _DEADLINE]


def any_protected(values: Collection[bytes]) -> bool:
    """Tell whether any of many envelopes, each checked already, is encrypted or signed."""
    return any(kind & (_KEY_ID | _SIGNED) for kind in _kinds(values))


def _kinds(values: Collection[bytes]) -> set[int]:
    return set(map(_second, values))


def is_sound(state_key: bytes, data: bytes) -> bool:
    """Tell whether an envelope passes its check sum, without taking it apart.

    :arg state_key: Whose state this should be, as UTF-8.
    :arg data: From :func:`seal`, perhaps.
    :returns: False where it is damaged or another key's; a newer version's may pass.
    """
    stored = int.from_bytes(data[2:OVERHEAD], "little")
    return crc32(data[OVERHEAD:], crc32(state_key, crc32(data[:2]))) == stored


def are_sound(state_keys: Sequence[bytes], values: Sequence[bytes]) -> bool:
    """Tell whether many envelopes pass their check sums; fast, because a restart has a million.

    :arg state_keys: Whose states these should be, as UTF-8.
    :arg values: As many, in the same order.
    :returns: True where all do. False where one may not, is short, or is of another version: then
        ask :func:`is_sound` for each.
    """
    count = len(values)
    if not count:
        return True
    starts = bytes(map(_first, values)) if min(map(len, values)) >= OVERHEAD else b""
    if starts != _HEADS[0][:1] * count:
        return False
    heads = map(_HEAD_SUMS.__getitem__, map(_second, values))
    sums = map(crc32, map(_body, values), map(crc32, state_keys, heads))
    return tuple(sums) == struct.unpack(f"<{count}I", b"".join(map(_stored_sum, values)))


def is_pickle(data: bytes) -> bool:
    """Tell whether the payload of an envelope is a pickle; the caller checks the envelope itself.

    :arg data: From :func:`seal` or :func:`close_envelope`, perhaps.
    """
    return data[1:2] > b"" and data[1] & 0x0F == PICKLE


def is_protected(data: bytes) -> bool:
    """Tell whether an envelope is encrypted or signed, so that it can't be read anywhere else.

    :arg data: From :func:`seal` or :func:`close_envelope`, perhaps.
    :returns: False also for what is no envelope of this version.
    """
    return data[:1] == _HEADS[0][:1] and data[1:2] > b"" and bool(data[1] & (_KEY_ID | _SIGNED))


def key_ids_of(data: bytes) -> tuple[bytes, bytes]:
    """Read which keys protect an envelope; the caller checks the envelope itself.

    :arg data: From :func:`seal` or :func:`close_envelope`, perhaps.
    :returns: IDs of the keys with which it is encrypted and signed; each empty for none, also where
        the envelope is damaged.
    """
    if not is_protected(data):
        return b"", b""
    key_id, start = b"", OVERHEAD
    if data[1] & _KEY_ID:
        key_id, start = _id_at(data, start)
    if data[1] & _DEADLINE:
        start += _DEADLINE_BYTES
    signer = _id_at(data, start)[0] if data[1] & _SIGNED else b""
    return key_id, signer


def _id_at(data: bytes, start: int) -> tuple[bytes, int]:
    end = start + 1 + int.from_bytes(data[start : start + 1], "big")
    return data[start + 1 : end], end


def _check_sum(kind: int, state_key: str | bytes, body: bytes) -> int:
    return crc32(body, crc32(key_bytes(state_key), _HEAD_SUMS[kind]))


def _open_fields(state_key: str | bytes, kind: int, body: bytes) -> Envelope:
    codec = kind & 0x0F
    if codec not in _CODECS:
        _refuse_newer(state_key, f"codec {codec}")
    key_id = signer = signature = b""
    deadline = None
    if kind & _KEY_ID:
        key_id, body = _cut_id(state_key, body)
    if kind & _DEADLINE:
        field, body = _cut(state_key, body, _DEADLINE_BYTES)
        deadline = int.from_bytes(field, "big")
    if kind & _SIGNED:
        signer, body = _cut_id(state_key, body)
        if len(body) < SIGNATURE_BYTES:
            raise DecodeError(f"the value of key {state_key!r} ends inside its signature")
        body, signature = body[:-SIGNATURE_BYTES], body[-SIGNATURE_BYTES:]
    return Envelope(codec, body, key_id, deadline, bool(kind & _COMPRESSED), signer, signature)


def _cut_id(state_key: str | bytes, body: bytes) -> tuple[bytes, bytes]:
    length, body = _cut(state_key, body, 1)
    if length == b"\0":
        # An empty ID means that the stage was left out, so a reader would skip the stage.
        raise DecodeError(f"the value of key {state_key!r} has an empty key ID")
    return _cut(state_key, body, length[0])


def _cut(state_key: str | bytes, body: bytes, size: int) -> tuple[bytes, bytes]:
    if len(body) < size:
        raise DecodeError(f"the value of key {state_key!r} ends inside its header")
    return body[:size], body[size:]


def _refuse_start(state_key: str | bytes, data: bytes) -> NoReturn:
    if data and data[0] & 0xF0 == _MAGIC and data[0] & 0x0F > _VERSION:
        _refuse_newer(state_key, f"format version {data[0] & 0x0F}")
    raise DecodeError(
        f"the value of key {state_key!r} is no state: it has {len(data)} bytes, and they start "
        f"with {data[:2].hex() or 'nothing'}",
        "it is damaged, or something else wrote to this key",
    )


def _refuse_newer(state_key: str | bytes, what: str) -> NoReturn:
    raise DecodeError(
        f"the value of key {state_key!r} has {what}: written by a newer version",
        "upgrade bytewax-redis-state to read it",
    )
