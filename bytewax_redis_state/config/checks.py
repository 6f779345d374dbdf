"""Checks of single values; each error names the field and the value."""

from __future__ import annotations

from datetime import timedelta

from bytewax_redis_state.errors import ConfigError

__all__ = ["check_at_least", "check_durations", "check_timeouts", "check_ttl"]

_MILLISECOND = timedelta(milliseconds=1)
_DAY = timedelta(days=1)


def check_durations(**durations: timedelta) -> None:
    """Refuse a value that is not a timedelta above zero.

    :raises ConfigError: Names the field.
    """
    for name, value in durations.items():
        if not isinstance(value, timedelta) or value <= timedelta(0):
            raise ConfigError(f"{name} is {value!r}", "give a timedelta above zero")


def check_timeouts(**timeouts: timedelta) -> None:
    """Refuse a value that is not a timedelta above zero and of at most a day.

    :raises ConfigError: Names the field.
    """
    check_durations(**timeouts)
    for name, value in timeouts.items():
        if value > _DAY:
            raise ConfigError(f"{name} is {value!r}", "give a timedelta of at most a day")


def check_ttl(name: str, value: timedelta | None) -> None:
    """Refuse a value that is neither ``None`` nor a time to live that Redis can count.

    :raises ConfigError: Names the field.
    """
    if value is not None and (not isinstance(value, timedelta) or value < _MILLISECOND):
        hint = "give a timedelta of a millisecond or more, or None to keep values for ever"
        raise ConfigError(f"{name} is {value!r}", hint)


def check_at_least(least: int, **numbers: int) -> None:
    """Refuse a value that is not a whole number of at least ``least``.

    :raises ConfigError: Names the field.
    """
    for name, value in numbers.items():
        if type(value) is not int or value < least:
            raise ConfigError(f"{name} is {value!r}", f"give a whole number of at least {least}")
