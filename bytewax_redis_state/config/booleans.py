"""Switches as people write them: ``true``, ``on``, ``no``, ``0``."""

from __future__ import annotations

from bytewax_redis_state.errors import ConfigError

__all__ = ["parse_boolean"]

_SWITCHES = {"true": True, "1": True, "yes": True, "on": True}
_SWITCHES |= {"false": False, "0": False, "no": False, "off": False}


def parse_boolean(text: str) -> bool:
    """Read a switch.

    :arg text: ``true``, ``1``, ``yes``, ``on`` or their opposites, in any case.
    :returns: Whether it is on.
    :raises ConfigError: If it is none; names the text.
    """
    on = _SWITCHES.get(text.strip().lower())
    if on is None:
        raise ConfigError(f"{text!r} is no switch", "give true or false")
    return on
