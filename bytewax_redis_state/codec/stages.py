"""Stages between a serialised value and its envelope: compress, encrypt, sign; and back.

A writer takes the steps 1. compress, 2. encrypt, 3. sign. A reader takes them back from 3 to 1. It
uses nothing of a value before its signature is verified; an unsigned value is refused, unless the
settings accept it.

Signature and encryption cover namespace, flow, step, state key and header (the associated data). So
nobody can copy a protected value to another key or namespace, or change its header. A savepoint
that moves values has to seal them again (:meth:`.StateCodec.reseal`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bytewax_redis_state.codec.compression import Compressor, Inflater
from bytewax_redis_state.codec.encryption import Cipher
from bytewax_redis_state.codec.envelope import (
    OVERHEAD,
    SIGNATURE_BYTES,
    Envelope,
    close_envelope,
    head_of,
    key_bytes,
)
from bytewax_redis_state.codec.signing import Signer
from bytewax_redis_state.errors import DecodeError

__all__ = ["AssociatedData", "Stages"]


def _part(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


class AssociatedData:
    """The names that a step's values are bound to; signature and encryption cover them.

    AES-GCM calls this the associated data. Each name goes with its length, so that no two different
    sets of names have the same bytes.

    :arg namespace: Of the keys.
    :arg flow_id: Of the flow; empty for none.
    :arg step: As the keys name it; empty for none.
    """

    def __init__(self, namespace: str, flow_id: str, step: str) -> None:
        self._parts = b"".join(_part(name.encode()) for name in (namespace, flow_id, step))

    def for_key(self, state_key: str | bytes) -> bytes:
        """Add a state key to the names."""
        return self._parts + _part(key_bytes(state_key))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Take payloads through the stages and back; any number of threads may use it.

    :arg compressor: Compresses on writing; ``None`` for no compression.
    :arg inflater: Decompresses values of any method.
    :arg cipher: Encrypts with ``encrypt_with`` and decrypts with any of its keys, or ``None``.
    :arg encrypt_with: ID of the key to encrypt with; empty for no encryption on writing.
    :arg accept_unencrypted: Whether values that aren't encrypted are read.
    :arg signer: Signs with ``sign_with`` and verifies with any of its keys, or ``None``.
    :arg sign_with: ID of the key to sign with; empty for no signature on writing.
    :arg accept_unsigned: Whether values that aren't signed are read.
    """

    compressor: Compressor | None
    inflater: Inflater
    cipher: Cipher | None
    encrypt_with: bytes
    accept_unencrypted: bool
    signer: Signer | None
    sign_with: bytes
    accept_unsigned: bool

    @property
    def write_plain(self) -> bool:
        """Whether payloads go into their envelopes as they are."""
        return not (self.compressor or self.encrypt_with or self.sign_with)

    @property
    def read_plain(self) -> bool:
        """Whether an envelope without stages is read."""
        return self.accept_unencrypted and self.accept_unsigned

    def seal(
        self,
        names: AssociatedData,
        state_key: str | bytes,
        codec: int,
        payload: bytes,
        deadline: int | None = None,
    ) -> bytes:
        """Take a payload through the stages; arguments as :func:`.envelope.seal`.

        :returns: The envelope's bytes.
        """
        squeezed = self.compressor.compress(payload) if self.compressor else None
        head = head_of(
            codec,
            key_id=self.encrypt_with,
            deadline=deadline,
            compressed=squeezed is not None,
            signer=self.sign_with,
        )
        body = payload if squeezed is None else squeezed
        bound_to = names.for_key(state_key)
        if self.encrypt_with and self.cipher:
            body = self.cipher.encrypt(self.encrypt_with, bound_to + head, body)
        content = head + body
        if self.sign_with and self.signer:
            content += self.signer.sign(self.sign_with, bound_to, content)
        return close_envelope(state_key, content)

    def open(
        self, names: AssociatedData, state_key: str | bytes, envelope: Envelope, data: bytes
    ) -> Envelope:
        """Take a payload back through the stages.

        :arg names: Of the step that the envelope was found in.
        :arg state_key: Whose state it should be.
        :arg envelope: As opened from ``data``.
        :arg data: All its bytes.
        :returns: The envelope with the serialised payload.
        :raises DecodeError: If the value is forged, moved or damaged, needs a key that is not
        there,
            or lacks a stage that the settings require. The caller puts the state key before the
            message.
        """
        bound_to = names.for_key(state_key)
        self._verify(bound_to, envelope, data)
        payload = self._decrypted(bound_to, envelope)
        if envelope.compressed:
            payload = self.inflater.inflate(payload)
        return envelope._replace(payload=payload)

    def _verify(self, bound_to: bytes, envelope: Envelope, data: bytes) -> None:
        if envelope.signer:
            signer = self.signer or Signer({})
            content = data[:2] + data[OVERHEAD:-SIGNATURE_BYTES]
            signer.verify(envelope.signer, bound_to, content, envelope.signature)
        elif not self.accept_unsigned:
            raise DecodeError(
                "is not signed, and accept_unsigned is False",
                "it is forged, or older than signing: accept_unsigned=True reads it meanwhile",
            )

    def _decrypted(self, bound_to: bytes, envelope: Envelope) -> bytes:
        if envelope.key_id:
            cipher = self.cipher or Cipher({})
            associated = bound_to + head_of(
                envelope.codec,
                key_id=envelope.key_id,
                deadline=envelope.deadline,
                compressed=envelope.compressed,
                signer=envelope.signer,
            )
            return cipher.decrypt(envelope.key_id, associated, envelope.payload)
        if not self.accept_unencrypted:
            raise DecodeError(
                "is not encrypted, and accept_unencrypted is False",
                "it is forged, or older than encryption: accept_unencrypted=True reads it "
                "meanwhile",
            )
        return envelope.payload
