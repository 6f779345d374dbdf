"""Things that a command makes for itself and that nobody finds afterwards: a server, keys.

Invariant: what was made here is gone when the block is left, on Ctrl-C too.
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

__all__ = ["removed_keys", "throwaway_server"]

_IDLE = timedelta(seconds=10)  # where we are killed ourselves, the server ends after this
_END_SECONDS = 10.0
_POLL = 0.02  # seconds
_CHUNK = 1000  # keys


@contextmanager
def throwaway_server(folder: Path) -> Iterator[RedisConfig]:
    """Start an embedded server in a folder, and end it.

    :arg folder: Made here; to be deleted by the caller.
    :raises ConfigError: If no server program is installed.
    :raises ServerUnavailableError: If it does not come up.
    """
    try:
        yield start_embedded(folder, idle=_IDLE)
    finally:
        _end(folder)


def _end(folder: Path) -> None:
    """End the server by its keeper: that works where the server can't be reached, too."""
    made, told = EmbeddedDirectory(folder), False
    deadline = time.monotonic() + _END_SECONDS
    while folder.exists() and made.is_held() and time.monotonic() < deadline:
        record = made.read_record()  # Nothing while the server is still starting.
        if record is not None and not told:
            with suppress(ProcessLookupError):
                os.kill(record.keeper, signal.SIGTERM)
            told = True
        time.sleep(_POLL)


@contextmanager
def removed_keys(client: Client, keys: FlowKeys) -> Iterator[None]:
    """Remove all keys of a flow when the block is left.

    :arg client: Where they are.
    :arg keys: Of a flow that nobody runs any more by then.
    """
    try:
        yield
    finally:
        with translated(address_of(client)):
            for pattern in keys.patterns:
                found = client.scan_iter(match=pattern, count=_CHUNK)
                while chunk := list(islice(found, _CHUNK)):
                    client.unlink(*chunk)
