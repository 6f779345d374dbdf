"""Things that a command makes for itself and that nobody finds afterwards: a server, keys.

Invariant: what was made here is gone when the block is left, on Ctrl-C too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import Client, address_of, connect
from bytewax_redis_state.server.embedded import find_embedded, start_embedded
from bytewax_redis_state.server.folder import EmbeddedFolder
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
    deadline = time.monotonic() + _END_SECONDS
    while folder.exists() and EmbeddedFolder(folder).is_held() and time.monotonic() < deadline:
        # A server that is still starting can't be asked yet.
        with suppress(StateError):
            _shut_down(find_embedded(folder))
        time.sleep(_POLL)


def _shut_down(config: RedisConfig | None) -> None:
    if config is None:
        return
    client = connect(config)
    with translated(config.address):
        client.shutdown(nosave=True)


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
