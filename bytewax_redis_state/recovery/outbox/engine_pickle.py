"""The pickle that the engine makes of the bytes of a snapshot: read without an unpickler.

Invariant: only the pickle of one bytes object is read; an unpickler could be made to import, or to
ask for memory without end.
"""

from __future__ import annotations

from bytewax_redis_state.errors import DecodeError

__all__ = ["bytes_in"]

_PICKLE, _FRAME, _PICKLE_END = b"\x80", b"\x95", b"\x94."
_FRAME_BYTES = 9
_LENGTHS = {b"C": 1, b"B": 4, b"\x8e": 8}  # opcode of bytes to how long its length is


def bytes_in(change: bytes | None) -> bytes | None:
    """Take the bytes out of the pickle that the engine made of them.

    :arg change: The pickle; ``None`` for a discarded key.
    :returns: The bytes; ``None`` for ``None``.
    :raises DecodeError: If it is the pickle of something else.
    """
    if change is None:
        return None
    at = 2
    if change[at : at + 1] == _FRAME:
        at += _FRAME_BYTES
    width = _LENGTHS.get(change[at : at + 1], 0)
    start = at + 1 + width
    end = start + int.from_bytes(change[at + 1 : start], "little")
    if change[:1] != _PICKLE or not width or change[end:] != _PICKLE_END:
        raise DecodeError(f"an outbox row of {len(change)} bytes is no pickle of bytes")
    return change[start:end]
