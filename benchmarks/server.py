"""A throw-away Redis for benchmarks: append-only, fsync every second, on a Unix socket."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.server.binary import find_server_binary
from bytewax_redis_state.server.client import connect


@contextmanager
def benchmark_server() -> Iterator[str]:
    """Run a server for as long as the block lasts; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec"]
        process = subprocess.Popen(
            [str(find_server_binary()), *options, *durable], stdout=subprocess.DEVNULL
        )
        url = f"unix://{socket}"
        try:
            _wait(url)
            yield url
        finally:
            process.terminate()
            process.wait()


@contextmanager
def emptied(url: str) -> Iterator[None]:
    """Empty the server at the end of the block: a run's keys are no burden on the next one's."""
    try:
        yield
    except Exception:
        _empty(url)
        raise
    _empty(url)  # not after an interrupt: the server may have had the same signal, and be gone


def _empty(url: str) -> None:
    with connect(RedisConfig(url=url).patient(timedelta(seconds=30))) as client:
        client.flushdb()


def _wait(url: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            connect(RedisConfig(url=url, connect_timeout=timedelta(seconds=1))).close()
        except ServerUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
