"""Load settings from environment variables and TOML files; errors name the variable or the key.

Invariant: an error shows a value only if the value can't be a secret.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bytewax_redis_state.config.booleans import parse_boolean
from bytewax_redis_state.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "READERS",
    "parse_toml",
    "read_environment",
    "read_toml",
    "refuse_unknown",
]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _seconds(value: object) -> timedelta:
    if type(value) is not int and type(value) is not float:
        raise TypeError
    return timedelta(seconds=value)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_Reader = Callable[[object], Any]
_HINTS: Mapping[_Reader, str] = {
    _text: "give text",
    _whole: "give a whole number",
    _seconds: "give seconds, such as 0.5",
    _switch: "give true or false",
}
_OF_TEXT: Mapping[_Reader, Callable[[str], Any]] = {
    _text: str,
    _whole: int,
    _seconds: float,
    _switch: parse_boolean,
}

READERS: Mapping[str, _Reader] = MappingProxyType(
    {
        "url": _text,
        "key_prefix": _text,
        "default_ttl": _seconds,
        "pool_min": _whole,
        "pool_max": _whole,
        "connect_timeout": _seconds,
        "read_timeout": _seconds,
        "write_timeout": _seconds,
        "retry_attempts": _whole,
        "retry_base_delay": _seconds,
        "retry_max_delay": _seconds,
        "cluster_mode": _switch,
        "tls": _switch,
        "pipeline_batch_size": _whole,
        "credentials": _text,
    }
)
"""How each field of :class:`.RedisConfig` is read from text or TOML."""


def refuse_unknown(settings: Iterable[str], names: Collection[str]) -> None:
    """Refuse a setting that does not exist, and suggest the one that was probably meant.

    :raises ConfigError: If there is one; names it.
    """
    for name in settings:
        if name not in names:
            close = get_close_matches(name, names, 1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(names)}"
            )
            raise ConfigError(f"there is no setting {name!r}", hint)


def _read(name: str, place: str, value: object, *, from_text: bool = False) -> Any:
    reader = READERS[name]
    try:
        return reader(_OF_TEXT[reader](str(value)) if from_text else value)
    except (TypeError, ValueError, OverflowError, ConfigError):
        # A URL of the wrong type can hold a password, too.
        shown = f"of type {type(value).__name__}" if name == "url" else repr(value)
        raise ConfigError(f"{place} is {shown}", _HINTS[reader]) from None


def read_environment(
    prefix: str, names: Iterable[str], environ: Mapping[str, str] | None
) -> dict[str, Any]:
    """Read the fields that the environment sets; see ``RedisConfig.from_env``."""
    found = os.environ if environ is None else environ
    places = {name: prefix + name.upper() for name in names}
    return {
        name: _read(name, place, found[place], from_text=True)
        for name, place in places.items()
        if found.get(place)
    }


def read_toml(path: Path, table: str, names: Collection[str]) -> dict[str, Any]:
    """Read the fields that a file sets; see ``RedisConfig.from_file``."""
    settings = _table(path, table)
    for name, value in settings.items():
        if isinstance(value, dict) and name not in names:
            where = f"{table}.{name}" if table else name
            raise ConfigError(
                f"[{where}] is a table, not a setting", f"to read it, give table={where!r}"
            )
    refuse_unknown(settings, names)
    return {name: _read(name, name, value) for name, value in settings.items()}


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    :arg text: Content of a file.
    :returns: Its values.
    :raises ConfigError: If the text is not TOML; shows none of it.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise ConfigError(
            "it is not a TOML file", "check its syntax, see https://toml.io"
        ) from None


def _table(path: Path, table: str) -> Mapping[str, Any]:
    try:
        found: Any = parse_toml(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the file can't be read: {error.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            "it is not a TOML file", "check its syntax, see https://toml.io"
        ) from None
    for part in table.split(".") if table else ():
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"the file has no table [{table}]", "check the name of the table")
    return found
