"""Booleans as text: ``true``, ``on``, ``no``, ``0``."""

from __future__ import annotations

from bytewax_redis_state.errors import ConfigError

__all__ = ["parse_boolean"]

_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True}
_BOOLEANS |= {"false": False, "0": False, "no": False, "off": False}


def parse_boolean(text: str) -> bool:
    """Read a boolean.

    :arg text: ``true``, ``1``, ``yes``, ``on`` or their opposites, in any case.
    :returns: The boolean.
    :raises ConfigError: If the text is neither; names the text.
    """
    found = _BOOLEANS.get(text.strip().lower())
    if found is None:
        raise ConfigError(f"{text!r} is neither true nor false", "give true or false")
    return found
