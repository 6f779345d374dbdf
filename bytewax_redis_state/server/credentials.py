"""User and password from a function, called for each connection, so that tokens can be rotated.

Invariant: no error shows what the function returns. Errors show what it raises, so it should put no
secret into an exception.
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

_HINT = "write it as module:name, and check that the module can be imported here"


class _Asking(CredentialProvider):
    """Calls a function or another provider, and turns what it raises into an error of redis-py."""

    def __init__(self, given: Any, shown: str) -> None:
        self._ask = getattr(given, "get_credentials", given)
        self._shown = shown

    def get_credentials(self) -> tuple[str, ...]:  # type: ignore[override]
        # Any exception of the user's function: on one of another class redis-py would keep the
        # connection open without a login.
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
    """Make the credential provider of redis-py.

    :arg given: The value of ``RedisConfig.credentials``.
    :returns: The provider; ``None`` if ``given`` is ``None``.
    :raises ConfigError: If a name can't be imported, or is not a function and not a provider.
    """
    if given is None:
        return None
    if isinstance(given, str):
        return _Asking(_named(given), repr(given))
    return _Asking(given, getattr(given, "__qualname__", type(given).__qualname__))


def name_of(given: Any) -> str | None:
    """Name a function or provider, so that another process can import it.

    :arg given: The value of ``RedisConfig.credentials``.
    :returns: Its name, as ``module:name``; ``None`` if ``given`` is ``None``.
    :raises ConfigError: If another process can't import it.
    """
    if given is None:
        return None
    # The replicator outlives the dataflow, so it can't ask the dataflow for a token: it imports the
    # function and calls it itself.
    if isinstance(given, str):
        _named(given)
        return given
    module, name = (getattr(given, part, "") for part in ("__module__", "__qualname__"))
    if module == "__main__" or _found(sys.modules.get(module), name) is not given:
        raise ConfigError(
            f"credentials is {type(given).__name__} {name or '(an instance)'!r}, which the "
            "replicator, a process of its own, can't import",
            "define it in a module, and give its name as module:name",
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
        what = "does not exist" if found is None else f"is a {type(found).__name__}"
        raise ConfigError(f"credentials {text!r}: {name} {what}", _HINT)
    return found
