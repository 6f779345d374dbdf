"""The secret keys that protect a flow's values, from a key file, the environment or Python.

A key file is TOML, or JSON if its name ends with ``.json``::

    sign_with = "2026-11"
    [signing_keys]
    "2026-10" = "…"    # base64 of 16 random bytes or more
    "2026-11" = "…"

Invariant: no ``repr`` and no error shows the bytes of a key; they show its ID.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bytewax_redis_state.config.booleans import parse_boolean
from bytewax_redis_state.config.loading import parse_toml, refuse_unknown
from bytewax_redis_state.config.ownership import foreign_owner
from bytewax_redis_state.errors import ConfigError

__all__ = ["SECRETS_ENVIRONMENT", "Secrets"]

_PREFIX = "BYTEWAX_REDIS_"
_KEY_FILE = f"{_PREFIX}KEY_FILE"
_OF_OTHERS = stat.S_IRWXO | stat.S_IWGRP
_LARGEST = 1024 * 1024

SECRETS_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        _KEY_FILE: "path of a key file, as --key-file",
        "BYTEWAX_REDIS_ENCRYPTION_KEYS": "ID=base64,ID=base64, instead of a key file",
        "BYTEWAX_REDIS_ENCRYPT_WITH": "ID of the key to encrypt with",
        "BYTEWAX_REDIS_ACCEPT_UNENCRYPTED": "true: read values that aren't encrypted, too",
        "BYTEWAX_REDIS_SIGNING_KEYS": "ID=base64,ID=base64, instead of a key file",
        "BYTEWAX_REDIS_SIGN_WITH": "ID of the key to sign with",
        "BYTEWAX_REDIS_ACCEPT_UNSIGNED": "true: read values that aren't signed, too",
    }
)
"""Environment variable to its meaning."""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Keys that protect a flow's values; all are for reading, one of each kind is for writing.

    :class:`.Codec` checks them, and its documentation says which keys it takes.

    :arg encryption_keys: Key by key ID, for AES-GCM.
    :arg encrypt_with: ID of the key for writing; ``None`` for no encryption.
    :arg accept_unencrypted: Whether values that aren't encrypted are read.
    :arg signing_keys: Key by key ID, for HMAC-SHA256.
    :arg sign_with: ID of the key for writing; ``None`` for no signature.
    :arg accept_unsigned: Whether values that aren't signed are read.
    """

    encryption_keys: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    encrypt_with: str | None = None
    accept_unencrypted: bool = False
    signing_keys: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    sign_with: str | None = None
    accept_unsigned: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """All fields by name, as :class:`.Codec` takes them."""
        return {name: getattr(self, name) for name in _names()}

    @classmethod
    def from_file(cls, path: str | Path) -> Secrets:
        """Read a key file.

        :arg path: The file; nobody but its owner, and perhaps its group, may have access to it.
        :returns: The keys in it.
        :raises ConfigError: If another user owns it, others may read or change it, or its content
            is wrong.
        """
        path = Path(path)
        try:
            return cls(**_checked(_parsed(path, _private_text(path))))
        except ConfigError as error:
            raise ConfigError(f"key file {str(path)!r}: {error.message}", error.hint) from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Secrets:
        """Read the keys from environment variables, or from the key file that one of them names.

        :arg environ: Where to look; ``None`` for the process's own environment.
        :returns: The keys; without any of the variables, no keys.
        :raises ConfigError: If both a key file and keys are set, or a variable is wrong.
        """
        found = os.environ if environ is None else environ
        path = found.get(_KEY_FILE)
        listed = {name: found[_variable(name)] for name in _names() if found.get(_variable(name))}
        if path and listed:
            raise ConfigError(
                f"{_KEY_FILE} and {_variable(min(listed))} are both set", "unset one of them"
            )
        if path:
            return cls.from_file(path)
        return cls(**{name: _from_text(name, text) for name, text in listed.items()})

    def __repr__(self) -> str:
        shown = (
            f"{name}={sorted(value) if isinstance(value, Mapping) else value!r}"
            for name, value in self.given.items()
        )
        return f"Secrets({', '.join(shown)})"


def _names() -> tuple[str, ...]:
    return tuple(part.name for part in fields(Secrets))


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            owner = foreign_owner(about)
            if owner is not None:
                raise ConfigError(f"it {owner}", "copy it to a file of your own, with mode 600")
            if stat.S_IMODE(about.st_mode) & _OF_OTHERS:
                raise ConfigError(
                    f"its mode is {stat.S_IMODE(about.st_mode):04o}: others may read or change it",
                    "set its mode to 600, or to 640 for its group (Kubernetes: defaultMode: 0440)",
                )
            return file.read(_LARGEST).decode()
    except OSError as error:
        raise ConfigError(
            f"it can't be read: {error.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("it is not text", "write it as TOML or JSON") from None


def _parsed(path: Path, text: str) -> Any:
    if path.suffix != ".json":
        return parse_toml(text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # The parser's own message can quote a key.
        raise ConfigError("it is not JSON", "check its syntax, see https://www.json.org") from None


def _checked(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ConfigError(f"it holds a {type(document).__name__}", "write an object, { … }")
    refuse_unknown(document, _names())
    return {name: _of_document(name, value) for name, value in document.items()}


def _of_document(name: str, value: Any) -> Any:
    if name.endswith("_keys"):
        if not isinstance(value, dict):
            raise ConfigError(
                f"{name} is a {type(value).__name__}", f"write it as the table [{name}]"
            )
        return {key_id: _key(name, key_id, text) for key_id, text in value.items()}
    wanted = bool if name.startswith("accept_") else str
    if type(value) is not wanted:
        hint = "give true or false" if wanted is bool else "give the ID of a key, as text"
        raise ConfigError(f"{name} is a {type(value).__name__}", hint)
    return value


def _from_text(name: str, text: str) -> Any:
    variable = _variable(name)
    if name.startswith("accept_"):
        return _switch(variable, text)
    if not name.endswith("_keys"):
        return text
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError(f"{variable} is not a list of keys", "write it as ID=base64,ID=base64")
    return {key_id: _key(variable, key_id, key) for key_id, _, key in pairs}


def _switch(variable: str, text: str) -> bool:
    try:
        return parse_boolean(text)
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error.message}", error.hint) from None


def _key(place: str, key_id: str, text: Any) -> bytes:
    try:
        # Both alphabets of base64: tools that make keys print one or the other.
        return base64.b64decode(text.translate(_URL_SAFE).encode(), validate=True)
    except (AttributeError, ValueError, binascii.Error):
        raise ConfigError(
            f"the key {key_id!r} in {place} is not base64",
            "make a key with: openssl rand -base64 32",
        ) from None


_URL_SAFE = str.maketrans("-_", "+/")
