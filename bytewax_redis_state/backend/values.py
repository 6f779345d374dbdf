"""Values of the user as the bytes that a state backend stores, and back.

An ``int`` of 64 bits is stored as plain digits, so that the server can add to it, unless the codec
encrypts or signs. An envelope never begins with a digit or a minus, so the two can't be mixed up.
The price is that digits have no check sum.

Invariant: a value that was put comes back equal and of the same type, or there is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import DecodeError, EncodeError

__all__ = ["LARGEST", "SMALLEST", "Key", "Values"]

Key: TypeAlias = "str | bytes"
SMALLEST, LARGEST = -(2**63), 2**63 - 1

_DIGITS = b"-0123456789"
_BYTES = frozenset({bytes})


class Values:
    """Encode and decode the values of one backend; any number of threads may share one.

    :arg codec: Makes bytes of values; ``None`` where values are bytes and are stored as they are.
    :arg prefix: What the backend's keys start with.
    """

    def __init__(self, codec: Codec | None, prefix: str) -> None:
        self.codec = codec
        self.bound = None if codec is None else codec.bind(namespace=prefix, flow_id="", step="")
        self._encode: Callable[[Key, Any], bytes] = _raw
        self._decode: Callable[[Key, bytes], Any] = _as_is
        if self.bound is not None:
            self._encode, self._decode = self.bound.encode, self.bound.decode
        self.has_counters = codec is None or not codec.protects
        """Whether integers are stored plain; the server could not encrypt or sign a sum."""
        self._reads_plain = codec is None or _reads_plain(codec)

    def dump(self, key: Key, value: Any) -> bytes:
        """Encode a value.

        :raises EncodeError: If the value can't be encoded; names key, type and the path inside.
        """
        if type(value) is int and self.has_counters and SMALLEST <= value <= LARGEST:
            return b"%d" % value
        return self._encode(key, value)

    def load(self, key: Key, data: bytes) -> Any:
        """Decode a value.

        :raises DecodeError: If the bytes are damaged, another key's, or the settings forbid them.
        """
        if data[:1] in _DIGITS and self.bound is not None:
            return self._load_integer(key, data)
        return self._decode(key, data)

    def dump_all(self, keys: Sequence[Key], values: Sequence[Any]) -> list[bytes]:
        """Encode many values; as :meth:`dump`."""
        if self.bound is None and _BYTES.issuperset(map(type, values)):
            return list(values)
        if not self.has_counters:
            return list(map(self._encode, keys, values))
        encode = self._encode
        # The body of dump(): a batch holds many values, and a call for each would cost more than
        # the check.
        return [
            b"%d" % value
            if type(value) is int and SMALLEST <= value <= LARGEST
            else encode(key, value)
            for key, value in zip(keys, values, strict=True)
        ]

    def load_all(self, keys: Sequence[Key], data: Sequence[bytes]) -> list[Any]:
        """Decode many values; as :meth:`load`."""
        if self.bound is None:
            return list(data)
        decode, load = self._decode, self._load_integer
        # The body of load(), for the same reason.
        return [
            load(key, one) if one[:1] in _DIGITS else decode(key, one)
            for key, one in zip(keys, data, strict=True)
        ]

    def reseal(self, key: Key, data: bytes, into: Values) -> bytes:
        """Encode a stored value again, for another backend.

        :arg key: The value's key.
        :arg data: The value as this backend stores it.
        :arg into: The other backend's values.
        :returns: The value as the other backend stores it under the same key.
        :raises DecodeError: If the value can't be read.
        """
        if self.bound is None or into.bound is None or data[:1] in _DIGITS:
            return into.dump(key, self.load(key, data))
        return self.bound.reseal(key, data, into.bound)

    def _load_integer(self, key: Key, data: bytes) -> int:
        try:
            value = int(data)
        except ValueError:
            value = LARGEST + 1
        if b"%d" % value != data or not SMALLEST <= value <= LARGEST:
            raise DecodeError(
                f"key {key!r}: the stored value starts with a digit and is no integer of 64 bits",
                "it is damaged, or another program wrote it: put the value again",
            )
        if not self._reads_plain:
            raise DecodeError(
                f"key {key!r}: the stored value is a plain integer, neither encrypted nor signed",
                "read it with a codec that accepts values without protection, and put it again",
            )
        return value


def _reads_plain(codec: Codec) -> bool:
    encrypted = codec.encryption_keys and not codec.accept_unencrypted
    return not encrypted and not (codec.signing_keys and not codec.accept_unsigned)


def _raw(key: Key, value: Any) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise EncodeError(
        f"key {key!r}: the value is of type {type(value).__qualname__}, and codec=None takes bytes",
        "give the backend a codec to store other types",
    )


def _as_is(_: Key, data: bytes) -> Any:
    return data
