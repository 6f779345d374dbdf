"""The machine of a benchmark, and the installed versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bytewax_redis_state.server.binary import find_server_binary

_PACKAGES = ("bytewax", "bytewax-redis-state", "redis", "hiredis", "msgpack")
SERVER_OPTIONS = "appendonly yes, appendfsync everysec, on a Unix socket"


def describe() -> dict[str, Any]:
    """Describe this machine and what is installed."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "server": f"{_server()}, {SERVER_OPTIONS}",
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor()


def _server() -> str:
    said = subprocess.run(
        [find_server_binary(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    name = said.split()[0]
    found = re.search(r"v=(\S+)", said)
    return f"{name} {found[1] if found else ''}".strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
