"""Encryption: AES-GCM with random nonces, bound to a value's step and state key.

Random nonces of 96 bits hold for 2**32 values a key (NIST SP 800-38D); rotate before that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from bytewax_redis_state.codec.keyring import KeyRing
from bytewax_redis_state.errors import ConfigError, DecodeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Cipher"]

_LENGTHS = (16, 24, 32)
_NONCE_BYTES = 12
_TAG_BYTES = 16


def _aesgcm() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ConfigError(
            "encryption_keys needs the package cryptography, which is not installed",
            "pip install 'bytewax-redis-state[crypto]'",
        ) from None
    return AESGCM


class Cipher:
    """Encrypt and decrypt; any number of threads may use it.

    :arg keys: Key by ID, of 16, 24 or 32 bytes.
    :raises ConfigError: If an ID or a key can't be used, or ``cryptography`` is missing.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ring = KeyRing("encryption", keys, _LENGTHS)
        self._ciphers = {key_id: _aesgcm()(key) for key_id, key in self._ring.by_id().items()}

    def encrypt(self, key_id: bytes, associated: bytes, data: bytes) -> bytes:
        """Encrypt data.

        :arg key_id: One of the keys.
        :arg associated: The associated data, which must be the same when the data is decrypted.
        :arg data: The secret.
        :returns: Nonce, cipher text and tag.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[key_id].encrypt(nonce, data, associated)

    def decrypt(self, key_id: bytes, associated: bytes, sealed: bytes) -> bytes:
        """Decrypt data.

        :raises DecodeError: If the key is unknown, or data, key or associated data have changed.
        """
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise self._ring.unknown(key_id)
        from cryptography.exceptions import InvalidTag

        if len(sealed) >= _NONCE_BYTES + _TAG_BYTES:
            with suppress(InvalidTag):
                return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
        raise DecodeError(
            f"can't be decrypted with its key {key_id.decode()!r}",
            "it was altered, copied from another key or flow, or the key's bytes differ",
        )
