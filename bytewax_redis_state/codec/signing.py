"""Signatures: HMAC-SHA256 over an envelope, its step and its state key."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from bytewax_redis_state.codec.keyring import KeyRing
from bytewax_redis_state.errors import DecodeError

__all__ = ["Signer"]

_LENGTHS = range(16, 1025)


class Signer:
    """Sign and verify; any number of threads may use it.

    :arg keys: Key by ID, of 16 bytes or more.
    :raises ConfigError: If an ID or a key can't be used.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ring = KeyRing("signing", keys, _LENGTHS)
        self._keys = self._ring.by_id()

    def sign(self, key_id: bytes, bound_to: bytes, content: bytes) -> bytes:
        """Sign content.

        :arg key_id: One of the keys.
        :arg bound_to: From :meth:`.AssociatedData.for_key`; the signature covers it.
        :arg content: The bytes to sign.
        :returns: The signature.
        """
        return hmac.digest(self._keys[key_id], bound_to + content, "sha256")

    def verify(self, key_id: bytes, bound_to: bytes, content: bytes, signature: bytes) -> None:
        """Verify a signature.

        :raises DecodeError: If the key is unknown, or the signature is not by it.
        """
        if key_id not in self._keys:
            raise self._ring.unknown(key_id)
        if not hmac.compare_digest(self.sign(key_id, bound_to, content), signature):
            raise DecodeError(
                f"has a signature that its key {key_id.decode()!r} did not make for this state key",
                "it was altered, copied from another key or flow, or the key's bytes differ",
            )
