"""Sizes as text: ``512MiB``, ``1GB``, or a plain number of bytes."""

from __future__ import annotations

import re

from bytewax_redis_state.errors import ConfigError

__all__ = ["parse_size", "shown_size"]

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Read a size.

    :arg text: A number, with one of the units B, kB, MB, GB, KiB, MiB and GiB or without.
    :returns: Bytes.
    :raises ConfigError: If the text is not a size; names the text.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = (found[2].upper() or "B") if found else ""
    if found is None or unit not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a size", "write it as 512MiB, 1GB, or a number of bytes"
        )
    return int(float(found[1]) * _UNITS[unit])


def shown_size(size: int) -> str:
    """Write a size in the largest unit that is not above it: ``1.5 GiB``."""
    for unit, least in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"
