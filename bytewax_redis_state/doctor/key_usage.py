"""Key usage: which keys protect a flow's values, by key ID; verified where the keys are given.

Invariant: no value is built; with keys, a value counts as right only if its signature and its
encryption are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import is_sound, key_ids_of, open_envelope
from bytewax_redis_state.errors import DecodeError
from bytewax_redis_state.keys import FlowKeys

__all__ = ["KeyUsage"]


class KeyUsage:
    """Look at values one by one.

    :arg keys: Of the flow.
    :arg codec: Has the secret keys; ``None`` where they are not known.
    """

    def __init__(self, keys: FlowKeys, codec: Codec | None) -> None:
        self._keys = keys
        self._codec = codec
        self.signed: Counter[str] = Counter()
        self.encrypted: Counter[str] = Counter()

    def fault(self, step: str, state_key: str, value: bytes) -> DecodeError | None:
        """Count a value, and tell what is wrong with it.

        :arg step: Short name.
        :arg state_key: Whose state it is.
        :arg value: As Redis holds it.
        :returns: What a reader would say of it; ``None`` where nothing is wrong, or can't be told.
        """
        key_id, signer = (part.decode(errors="backslashreplace") for part in key_ids_of(value))
        self.encrypted[key_id] += 1
        self.signed[signer] += 1
        try:
            if not is_sound(state_key.encode(), value):
                open_envelope(state_key, value)
                return DecodeError("it fails its check sum")
            if self._codec is not None:
                self._require_readable(self._codec, step, state_key, value)
        except DecodeError as error:
            return error
        return None

    def _require_readable(self, codec: Codec, step: str, state_key: str, value: bytes) -> None:
        bound = codec.bind(namespace=self._keys.namespace, flow_id=self._keys.flow_id, step=step)
        bound.require_readable(state_key, value)

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Tell what there is to know of keys that are in use.

        :returns: Each as one line, and what to do.
        """
        for counts, done in ((self.encrypted, "encrypted"), (self.signed, "signed")):
            if not any(counts):
                continue
            told = ", ".join(
                f"{count:,} with {key_id!r}" if key_id else f"{count:,} with none"
                for key_id, count in sorted(counts.items())
            )
            yield f"values are {done}: {told}", self._hint(done, counts)

    def _hint(self, done: str, counts: Counter[str]) -> str:
        if self._codec is None:
            return "no keys were given, so this was not verified: --key-file FILE"
        current = self._codec.sign_with if done == "signed" else self._codec.encrypt_with
        if set(counts) <= {current or ""}:
            return "all verified; no other key is needed"
        return "all verified; the next start writes those with other keys anew"
