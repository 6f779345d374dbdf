"""Key usage: which encryption and signing keys a flow's values need, counted by key ID.

Invariant: no pickle is loaded and no class of the flow is looked for, so none of their code runs.
With the secret keys, a value counts as right only if its signature is right and it decrypts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import is_protected, is_sound, key_ids_of, open_envelope
from bytewax_redis_state.errors import DecodeError
from bytewax_redis_state.keys import FlowKeys

__all__ = ["KeyUsage"]


class KeyUsage:
    """Check values one by one, and count the keys that they need.

    :arg keys: Name the flow and its namespace, which signatures cover.
    :arg codec: Holds the secret keys; ``None`` where they are not known.
    """

    def __init__(self, keys: FlowKeys, codec: Codec | None) -> None:
        self._keys = keys
        self._codec = codec
        self.signed: Counter[str] = Counter()
        self.encrypted: Counter[str] = Counter()

    def check(self, step: str, state_key: str, value: bytes) -> DecodeError | None:
        """Count a value, and check it as far as the known keys allow.

        :arg step: Short name of the step.
        :arg state_key: The key whose state the value is.
        :arg value: The envelope that Redis holds.
        :returns: The error that a reader of the value would raise; ``None`` for a value in order.
        """
        key_id, signer = (part.decode(errors="backslashreplace") for part in key_ids_of(value))
        self.encrypted[key_id] += 1
        self.signed[signer] += 1
        try:
            if not is_sound(state_key.encode(), value):
                open_envelope(state_key, value)  # names what is wrong
                return DecodeError("its check sum is wrong")
            if self._codec is not None or not is_protected(value):
                self._require_sound(self._codec or Codec(), step, state_key, value)
        except DecodeError as error:
            return error
        return None

    def _require_sound(self, codec: Codec, step: str, state_key: str, value: bytes) -> None:
        bound = codec.bind(namespace=self._keys.namespace, flow_id=self._keys.flow_id, step=step)
        bound.require_sound(state_key, value)

    def summaries(self) -> Iterator[tuple[str, str]]:
        """Sum up which keys the values need.

        :returns: One line about encryption and one about signatures, each with a hint. A line is
            left out if no value is encrypted, or none is signed.
        """
        for counts, done in ((self.encrypted, "encrypted"), (self.signed, "signed")):
            if not any(counts):
                continue
            told = ", ".join(
                f"{count:,} with {key_id!r}" if key_id else f"{count:,} without a key"
                for key_id, count in sorted(counts.items())
            )
            yield f"values are {done}: {told}", self._hint(done, counts)

    def _hint(self, done: str, counts: Counter[str]) -> str:
        if self._codec is None:
            return "not verified, because no keys were given: --key-file FILE"
        current = self._codec.sign_with if done == "signed" else self._codec.encrypt_with
        if set(counts) <= {current or ""}:
            return "all verified; no other key is needed"
        return "all verified; the next start of the flow rewrites the values with other keys"
