"""Redis URLs: check them, and show them without secrets."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

from bytewax_redis_state.errors import ConfigError

__all__ = ["address_in", "checked_url", "database_in", "masked", "with_lower_scheme"]

_SCHEMES = ("redis", "rediss", "unix")


def masked(url: str) -> str:
    """Show a URL without the parts that can be secret."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    _, at, place = rest.rpartition("@")
    # A query may hold secrets too, such as ssl_password.
    place, question, _ = place.partition("?")
    return "".join([scheme, slashes, "***@" if at else "", place, "?***" if question else ""])


def with_lower_scheme(url: str) -> str:
    """Write the scheme of a URL in lower case; the client library knows it in no other one."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme.lower()}{slashes}{rest}" if slashes else url


def _split_url(url: str) -> tuple[SplitResult, int | None]:
    parts = urlsplit(url)
    return parts, parts.port


def checked_url(url: str) -> SplitResult:
    """Take a URL apart.

    :arg url: ``redis://``, ``rediss://`` or ``unix://``.
    :returns: Its parts, user and password among them.
    :raises ConfigError: If it does not parse, or names no host and no socket.
    """
    if not isinstance(url, str):
        raise ConfigError(f"url is of type {type(url).__name__}", "give text")
    shown = masked(url)
    hint = "write it as redis://[user:password@]host[:port][/db], rediss://… or unix:///path"
    try:
        # Parsed without user and password first: the message of the parser quotes the URL.
        _split_url(shown)
    except ValueError as error:
        raise ConfigError(f"the Redis URL {shown!r} does not parse: {error}", hint) from None
    try:
        parts, port = _split_url(url)
    except ValueError:
        raise _unescaped(shown) from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"the Redis URL {shown!r} has scheme {parts.scheme!r}", hint)
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError(f"the Redis URL {shown!r} names no socket", hint)
        if parts.hostname:  # the client library would leave it out
            raise ConfigError(f"the Redis URL {shown!r} does not hold the socket's full path", hint)
        return parts
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise _unescaped(shown)
    if not parts.hostname:
        raise ConfigError(f"the Redis URL {shown!r} names no host", hint)
    if port == 0:
        raise ConfigError(f"the Redis URL {shown!r} has port 0", hint)
    if not re.fullmatch(r"/?\d*", parts.path):
        raise ConfigError(f"the Redis URL {shown!r} has database {parts.path[1:]!r}", hint)
    return parts


def _unescaped(shown: str) -> ConfigError:
    return ConfigError(
        f"the user or the password in the Redis URL {shown!r} contains a delimiter of URLs",
        "percent-escape it: / is %2F, @ is %40, # is %23, ? is %3F, : is %3A",
    )


def database_in(parts: SplitResult) -> str | None:
    """Give the database that a URL names, or ``None``."""
    in_path = "" if parts.scheme == "unix" else parts.path.lstrip("/")
    return in_path or dict(parse_qsl(parts.query)).get("db")


def address_in(parts: SplitResult) -> str:
    """Give the address of Redis, without secrets."""
    database = database_in(parts) or "0"
    if parts.scheme == "unix":
        return f"unix://{parts.path}?db={database}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}/{database}"
