"""Credentials by callback: who to be, asked for each connection, so that a token may rotate.

Invariant: what the callback gives shows nowhere. What it raises does; it should hold no secret.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from bytewax_redis_state.errors import ConfigError

__all__ = ["name_of", "provider_of"]

_HINT = "write it as module:name, of something that can be imported from here"


class _Asking(CredentialProvider):
    """Ask a function or another provider; what it raises becomes an error that redis-py knows."""

    def __init__(self, given: Any, shown: str) -> None:
        self._ask = getattr(given, "get_credentials", given)
        self._shown = shown

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]
        # An error of another kind would leave redis-py's connection open, and nobody logged in.
        try:
            found = self._ask()
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise AuthenticationError(f"credentials {self._shown} failed: {what}") from error
        parts = (found,) if isinstance(found, str) else found
        if (
            not isinstance(parts, tuple | list)
            or len(parts) not in (1, 2)
            or not all(isinstance(part, str) for part in parts)
        ):
            raise AuthenticationError(
                f"credentials {self._shown} gave a {type(found).__name__} and not (user, password)"
            )
        return tuple(parts)

    async def get_credentials_async(self) -> tuple[str, ...]:  # type: ignore[override]
        return await asyncio.to_thread(self.get_credentials)


def provider_of(given: Any) -> CredentialProvider | None:
    """Make what redis-py asks for user and password.

    :arg given: As ``RedisConfig.credentials`` has it.
    :returns: The provider; ``None`` where nothing is given.
    :raises ConfigError: If a name leads nowhere, or to something that can't be asked.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return _Asking(_named(given), repr(given))
    return _Asking(given, getattr(given, "__qualname__", type(given).__qualname__))


def name_of(given: Any) -> str | None:
    """Name what another process is to ask.

    :arg given: As ``RedisConfig.credentials`` has it.
    :returns: Its name, as ``module:name``; ``None`` where nothing is given.
    :raises ConfigError: If it has no name by which another process finds it.
    """
    if given is None:
        return None
    if isinstance(given, str):
        _named(given)
        return given
    module, name = (getattr(given, part, "") for part in ("__module__", "__qualname__"))
    if module == "__main__" or _found(sys.modules.get(module), name) is not given:
        raise ConfigError(
            f"credentials is {type(given).__name__} {name or '(an instance)'!r}, which the "
            "replicator, a process of its own, can't import",
            "put it into a module, and give its name as module:name",
        )
    return f"{module}:{name}"


def _found(module: Any, name: str) -> Any:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _named(text: str) -> Any:
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"credentials is {text!r}", _HINT)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"credentials {text!r}: {error}", _HINT) from error
    found = _found(module, name)
    if not (callable(found) or hasattr(found, "get_credentials")):
        what = "is not there" if found is None else f"is a {type(found).__name__}"
        raise ConfigError(f"credentials {text!r}: {name} {what}", _HINT)
    return found
