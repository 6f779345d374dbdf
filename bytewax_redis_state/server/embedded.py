"""An embedded server: a redis-server or valkey-server process with an append-only file.

It listens on a unix socket in a directory of its own. It outlives the run that started it, so that
the next run and the tools find it; its keeper ends it when nobody uses it.

When a run is killed, nothing is lost. When the server itself or the machine is killed, about the
last second can be lost: with ``appendfsync everysec`` Redis answers before it writes to its file
while an fsync is under way.

Invariant: a directory never has two servers (see ``embedded_directory``).
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
from bytewax_redis_state.server.embedded_directory import (
    EXIT_LOCKED,
    EmbeddedDirectory,
    ServerRecord,
)

__all__ = ["DIRECTORY", "IDLE", "is_down", "start_embedded"]

DIRECTORY = Path(".bytewax-redis-state")
"""The directory of an embedded server, unless another one is given."""

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


def _ask(directory: EmbeddedDirectory, record: ServerRecord | None) -> _Answer:
    if record is None:
        return _Answer.NONE
    try:
        directory.require_own_server(record)
        connect(record.config).close()
    except OSError:  # nobody answers
        return _Answer.NONE
    except ServerError as error:
        loading = isinstance(error.__cause__, BusyLoadingError)
        return _Answer.LOADING if loading else _Answer.NONE
    # A keeper deletes the record, looks for new clients, and only then ends the server. So where
    # the record is still there after we have connected, the keeper sees our connection.
    return _Answer.READY if directory.read_record() == record else _Answer.NONE


def start_embedded(directory: Path = DIRECTORY, *, idle: timedelta = IDLE) -> RedisConfig:
    """Find the live server of a directory, or start one, and wait until it has loaded its data.

    :arg directory: The server's directory; made where it is missing.
    :arg idle: How long a server without clients is kept; the start that finds a live server does
        not change it.
    :returns: The settings to connect to it.
    :raises ConfigError: If no server program is installed, or the directory can't be used, or is
        another user's, or open to others.
    :raises ServerUnfitError: If the only server program is too old for the data in the directory.
    :raises ServerUnavailableError: If the server does not come up; with the last line of its log.
    """
    own = EmbeddedDirectory(directory.absolute())
    own.require_own()
    record = own.read_record()
    if record is not None and _ask(own, record) is _Answer.READY:
        return record.config
    binary = find_server_binary()
    own.prepare()
    return _start(own, binary, idle).config


def is_down(directory: Path) -> bool:
    """Tell whether the server of a directory has ended, and its keeper.

    :arg directory: The server's directory; one that is gone has no server.
    """
    own = EmbeddedDirectory(directory.absolute())
    return not own.path.is_dir() or not own.is_held()


def _start(directory: EmbeddedDirectory, binary: Path, idle: timedelta) -> ServerRecord:
    began = time.monotonic()
    started = False
    while True:
        record = directory.read_record()
        answer = _ask(directory, record)
        if record is not None and answer is _Answer.READY:
            return record
        waited = time.monotonic() - began
        if waited > (_START_LIMIT if answer is _Answer.NONE else _LOAD_LIMIT):
            raise _failed(directory)
        # Another start may have been first, and its server may have failed: then we start one.
        if answer is _Answer.NONE and not directory.is_held():
            if started:
                raise _failed(directory)
            started = _start_keeper(directory, binary, idle)
        time.sleep(_POLL)


def _start_keeper(directory: EmbeddedDirectory, binary: Path, idle: timedelta) -> bool:
    if directory.has_multipart_data and major_version(binary) < 7:
        raise ServerUnfitError(
            f"Redis 7 or newer has written the data in {directory.path}, and {binary} is older",
            "install redis-server 7 or newer, and put it first on PATH",
        )
    module = "bytewax_redis_state.server.keeper"
    arguments = [str(directory.path), str(binary), str(idle.total_seconds())]
    with directory.log.open("ab") as log:
        # From the package's own directory: with -m Python imports from the working directory first,
        # and a redis.py there would be taken for the client library.
        keeper = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            check=False,
            cwd=_PACKAGE_HOME,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    if keeper.returncode not in (0, EXIT_LOCKED):
        raise _failed(directory)
    return keeper.returncode == 0


def _failed(directory: EmbeddedDirectory) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"the embedded server in {directory.path} did not come up: {directory.last_log_line()}",
        f"read {directory.log}",
    )
