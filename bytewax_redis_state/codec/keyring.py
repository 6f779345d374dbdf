"""Key rings: secret keys by ID. One of them is used for writing, all for reading.

To rotate a key: add the new key everywhere, then write with it everywhere, then remove the old one
when no value in Redis needs it any longer.

Invariant: a key's bytes show in no ``repr`` and in no error; IDs do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bytewax_redis_state.errors import ConfigError, DecodeError

__all__ = ["KeyRing"]

_LONGEST_ID = 255


@dataclass(frozen=True)
class KeyRing:
    """The keys of one purpose, such as signing.

    :arg purpose: First word of the settings' names: ``signing`` for ``signing_keys``.
    :arg keys: Key by ID.
    :arg lengths: The allowed lengths of a key, in bytes.
    :raises ConfigError: If an ID or a key can't be used; names the ID.
    """

    purpose: str
    keys: Mapping[str, bytes]
    lengths: Collection[int]

    def __post_init__(self) -> None:
        field = f"{self.purpose}_keys"
        for key_id, key in self.keys.items():
            self._check_id(field, key_id)
            if not isinstance(key, bytes):
                kind = type(key).__name__
                raise ConfigError(f"{field}[{key_id!r}] is of type {kind}", "give bytes")
            if len(key) not in self.lengths:
                raise ConfigError(
                    f"{field}[{key_id!r}] has {len(key)} bytes", f"give {self._wanted()} bytes"
                )

    def _check_id(self, field: str, key_id: str) -> None:
        if not isinstance(key_id, str) or not key_id.isprintable() or not key_id:
            raise ConfigError(f"{field} has the key ID {key_id!r}", "give printable text")
        if len(key_id.encode()) > _LONGEST_ID:
            raise ConfigError(f"{field} has the key ID {key_id!r}", "give at most 255 bytes")

    def _wanted(self) -> str:
        if isinstance(self.lengths, range):
            return f"{self.lengths[0]} to {self.lengths[-1]} random"
        return f"{', '.join(map(str, self.lengths))} random"

    def by_id(self) -> dict[bytes, bytes]:
        """Give key by ID, as envelopes hold it."""
        return {key_id.encode(): key for key_id, key in self.keys.items()}

    def unknown(self, key_id: bytes) -> DecodeError:
        """Make the error for a value that was written with a key that is not here."""
        shown = key_id.decode(errors="backslashreplace")
        return DecodeError(
            f"needs the {self.purpose} key {shown!r}, which the codec doesn't have",
            f"add it to {self.purpose}_keys; keep an old key until no value needs it",
        )

    def __repr__(self) -> str:
        return f"KeyRing({self.purpose!r}, {sorted(self.keys)})"
