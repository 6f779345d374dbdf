"""The modes that the installed server program can run in, beside that of a single server."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bytewax_redis_state.server.binary import find_server_binary

__all__ = ["why_unsupported"]

_REFUSALS: Mapping[str, tuple[tuple[str, ...], bytes]] = {
    "sentinel": (("--sentinel",), b"config file on disk"),
    "cluster": (("--cluster-enabled", "perhaps"), b"must be 'yes' or 'no'"),
}
"""Options that make a program with this mode refuse to start, and its refusal.

A program without the mode answers otherwise. Neither starts a server.
"""

_SECONDS = 10


def why_unsupported(mode: str) -> str:
    """Give the reason why the server program can't run in a mode; empty where it can.

    :arg mode: ``single``, ``sentinel`` or ``cluster``.
    :raises ConfigError: If there is no server program.
    """
    binary = find_server_binary()
    if mode not in _REFUSALS or _knows(binary, mode):
        return ""
    return f"{binary} can't be run as a {mode} (put redis-server first on PATH)"


@cache
def _knows(binary: Path, mode: str) -> bool:
    options, refusal = _REFUSALS[mode]
    try:
        said = subprocess.run(
            [str(binary), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return refusal in said.stdout
