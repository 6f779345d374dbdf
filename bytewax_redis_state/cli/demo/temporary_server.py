"""A temporary Redis server, and the removal of keys from a server that stays.

Invariant: when the block of the context manager is left, on Ctrl-C too, the server or the keys are
gone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import Client, address_of
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory
from bytewax_redis_state.server.translation import translated

__all__ = ["removed_keys", "temporary_server"]

_IDLE = timedelta(seconds=10)  # if this process is killed, the server ends after this time
_END_SECONDS = 10.0
_POLL = 0.02  # seconds
_CHUNK = 1000  # keys


@contextmanager
def temporary_server(directory: Path) -> Iterator[RedisConfig]:
    """Start an embedded server in a directory, and end it when the block is left.

    :arg directory: Made here; the caller deletes it.
    :raises ConfigError: If no server program is installed.
    :raises ServerUnavailableError: If it does not come up.
    """
    try:
        yield start_embedded(directory, idle=_IDLE)
    finally:
        _end(directory)


def _end(directory: Path) -> None:
    """End the server through its keeper, which works also where the server can't be reached."""
    own, told = EmbeddedDirectory(directory), False
    deadline = time.monotonic() + _END_SECONDS
    while directory.exists() and own.is_held() and time.monotonic() < deadline:
        record = own.read_record()  # None while the server is still starting
        if record is not None and not told:
            with suppress(ProcessLookupError):
                os.kill(record.keeper, signal.SIGTERM)
            told = True
        time.sleep(_POLL)


@contextmanager
def removed_keys(client: Client, keys: FlowKeys) -> Iterator[None]:
    """Remove all keys of a flow when the block is left.

    :arg client: Where they are.
    :arg keys: Keys of a flow that no longer runs when the block is left.
    """
    try:
        yield
    finally:
        with translated(address_of(client)):
            for pattern in keys.patterns:
                found = client.scan_iter(match=pattern, count=_CHUNK)
                while chunk := list(islice(found, _CHUNK)):
                    client.unlink(*chunk)
