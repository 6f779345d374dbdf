"""An embedded server: a real one with append-only persistence, in a folder, on a unix socket.

It outlives the run that started it, is found again by the next one and by the tools, and its
keeper ends it when nobody uses it.

A kill of a run loses nothing. A kill of the server itself, or of the machine, can lose about the
last second: ``appendfsync everysec`` answers before it writes while an fsync is under way.

Invariant: a folder never has two servers (see ``folder``).
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta
from enum import Enum
from pathlib import Path

from redis.exceptions import BusyLoadingError

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerError, ServerUnavailableError, ServerUnfitError
from bytewax_redis_state.server.binary import find_server_binary, major_version
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.folder import HELD, EmbeddedFolder, Listening

__all__ = ["DIRECTORY", "IDLE", "find_embedded", "start_embedded"]

DIRECTORY = Path(".bytewax-redis-state")
"""Where an embedded server lives unless told otherwise."""

IDLE = timedelta(seconds=30)
"""How long a server without clients is kept."""

_START_LIMIT = 20.0  # seconds until the server answers at all
_LOAD_LIMIT = 900.0  # seconds until it has read its data
_POLL = 0.005  # seconds
_PACKAGE_HOME = Path(__file__).parents[2]


class _Answer(Enum):
    NONE = "none"
    LOADING = "loading"
    READY = "ready"


def _ask(folder: EmbeddedFolder, listening: Listening | None) -> _Answer:
    if listening is None:
        return _Answer.NONE
    try:
        connect(listening.config).close()
    except ServerError as error:
        loading = isinstance(error.__cause__, BusyLoadingError)
        return _Answer.LOADING if loading else _Answer.NONE
    # A keeper withdraws the address, looks for new clients, and only then ends the server: while
    # the address still stands our connection has been seen, or will be.
    return _Answer.READY if folder.listening() == listening else _Answer.NONE


def find_embedded(directory: Path = DIRECTORY) -> RedisConfig | None:
    """Find the live server of a folder; start nothing.

    :arg directory: The server's folder.
    :returns: The settings to reach it (it may still be loading), or ``None``.
    """
    folder = EmbeddedFolder(directory.absolute())
    listening = folder.listening()
    if listening is None or _ask(folder, listening) is _Answer.NONE:
        return None
    return listening.config


def start_embedded(directory: Path = DIRECTORY, *, idle: timedelta = IDLE) -> RedisConfig:
    """Find the live server of a folder, or start one, and wait until it has loaded its data.

    :arg directory: The server's folder; made where it is missing.
    :arg idle: How long a server without clients is kept; counts for the one that starts it.
    :returns: The settings to reach it.
    :raises ConfigError: If no server program is installed, or the folder can't be used.
    :raises ServerUnfitError: If the only server program is too old for the folder's data.
    :raises ServerUnavailableError: If the server does not come up; with the log's last line.
    """
    folder = EmbeddedFolder(directory.absolute())
    listening = folder.listening()
    if listening is not None and _ask(folder, listening) is _Answer.READY:
        return listening.config
    binary = find_server_binary()
    folder.prepare()
    return _start(folder, binary, idle).config


def _start(folder: EmbeddedFolder, binary: Path, idle: timedelta) -> Listening:
    began = time.monotonic()
    started = False
    while True:
        listening = folder.listening()
        answer = _ask(folder, listening)
        if listening is not None and answer is _Answer.READY:
            return listening
        waited = time.monotonic() - began
        if waited > (_START_LIMIT if answer is _Answer.NONE else _LOAD_LIMIT):
            raise _failed(folder)
        # Where another start was first and its server fails, it is our turn.
        if answer is _Answer.NONE and not folder.is_held():
            if started:
                raise _failed(folder)
            started = _start_keeper(folder, binary, idle)
        time.sleep(_POLL)


def _start_keeper(folder: EmbeddedFolder, binary: Path, idle: timedelta) -> bool:
    if folder.has_multipart_data and major_version(binary) < 7:
        raise ServerUnfitError(
            f"the data in {folder.path} is of Redis 7 or newer, but {binary} is older",
            "put a newer redis-server on PATH",
        )
    module = "bytewax_redis_state.server.keeper"
    arguments = [str(folder.path), str(binary), str(idle.total_seconds())]
    with folder.log.open("ab") as log:
        # From the package's own home, so that no module in the working directory shadows another.
        keeper = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            check=False,
            cwd=_PACKAGE_HOME,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if keeper.returncode not in (0, HELD):
        raise _failed(folder)
    return keeper.returncode == 0


def _failed(folder: EmbeddedFolder) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"the embedded server in {folder.path} did not come up: {folder.last_words()}",
        f"see {folder.log}",
    )
