"""redis-py: it retries by itself, and has no minimum pool or separate timeouts."""

from __future__ import annotations

import inspect
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

from .engine import wait_until


@pytest.fixture
def server(tmp_path: Path, server_binary: Path) -> Iterator[redis.Redis]:
    """A Redis of its own, on a unix socket."""
    path = tmp_path / "s"
    log = (tmp_path / "log").open("w")
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([str(server_binary), *options], stdout=log)
    client = redis.Redis(unix_socket_path=str(path))

    def answers() -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    wait_until(answers, "the server answers")
    yield client
    client.close()
    process.terminate()
    process.wait(BOUND_SECONDS)
    log.close()


class Swallower:
    """A proxy that passes requests on, keeps the answer to each INCR, and cuts the line."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._serve(self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._upstream)
            while request := client.recv(65_536):
                server.sendall(request)
                answer = server.recv(65_536)
                if b"INCR" in request:
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def swallower(server: redis.Redis) -> Iterator[Swallower]:
    proxy = Swallower(server.connection_pool.connection_kwargs["path"])
    yield proxy
    proxy.close()


def test_a_default_client_sends_one_incr_eleven_times(
    server: redis.Redis, swallower: Swallower
) -> None:
    client = redis.Redis(port=swallower.port)
    with pytest.raises(redis.ConnectionError):
        client.incr("counter")
    assert server.get("counter") == b"11"


def test_a_client_without_retries_sends_it_once(server: redis.Redis, swallower: Swallower) -> None:
    client = redis.Redis(port=swallower.port, retry=Retry(NoBackoff(), 0))
    with pytest.raises(redis.ConnectionError):
        client.incr("counter")
    assert server.get("counter") == b"1"


def test_a_pool_has_a_maximum_and_no_minimum() -> None:
    for pool in (redis.ConnectionPool, redis.BlockingConnectionPool):
        parameters = inspect.signature(pool).parameters
        assert "max_connections" in parameters
        assert not [name for name in parameters if "min" in name]


def test_a_client_has_one_timeout_for_connecting_and_one_for_reading_and_writing() -> None:
    parameters = inspect.signature(redis.Redis).parameters
    timeouts = {name for name in parameters if "timeout" in name and not name.startswith("retry")}
    assert timeouts == {"socket_connect_timeout", "socket_timeout"}
