"""Durations as text: ``7d``, ``1h30m``, ``500ms``, or a plain number of seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from bytewax_redis_state.errors import ConfigError

__all__ = ["FOREVER", "parse_duration", "parse_retention"]

FOREVER = "forever"
"""The text for keys that are kept for ever."""

_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[wdhms])")
_HINT = "write it as 7d, 12h, 1h30m, 45s, 500ms, or as a number of seconds"


def parse_duration(text: str) -> timedelta:
    """Read a duration.

    :arg text: Numbers with the units w, d, h, m, s and ms, or one number of seconds.
    :returns: The duration; it may be zero.
    :raises ConfigError: If the text is not a duration; names the text.
    """
    try:
        if re.fullmatch(r"\d*\.?\d+|\d+\.", text):
            return timedelta(seconds=float(text))
        parts = _PART.findall(text)
        if not parts or "".join(map("".join, parts)) != text:
            raise ConfigError(f"{text!r} is not a duration", _HINT)
        return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta(0))
    except OverflowError:
        raise ConfigError(
            f"{text!r} is longer than the longest duration, 2.7 million years", "give a shorter one"
        ) from None


def parse_retention(texts: Iterable[str]) -> dict[str, timedelta | None]:
    """Read how long idle keys of steps are kept.

    :arg texts: Each is ``STEP=DURATION`` or ``STEP=forever``.
    :returns: Retention by step, which is named as in the text; ``None`` for ever.
    :raises ConfigError: If a text is neither, or two texts name one step.
    """
    read: dict[str, timedelta | None] = {}
    for text in texts:
        step, equals, kept = text.rpartition("=")
        if not (step and equals and kept):
            raise ConfigError(f"{text!r} is not STEP=DURATION", "write it as orders.sum=7d")
        if step in read:
            raise ConfigError(f"the retention of {step!r} is given twice", "give it once")
        read[step] = None if kept == FOREVER else parse_duration(kept)
    return read
