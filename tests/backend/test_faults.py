"""Servers that die, stand still, forget or hang up: what is tried again, and what is told."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.errors import ServerError, ServerUnavailableError, UnknownOutcomeError

FAST = {
    "key_prefix": "faults:",
    "pool_min": 1,
    "retry_base_delay": timedelta(milliseconds=20),
    "retry_max_delay": timedelta(seconds=1),
}


def test_operations_resume_after_a_kill_and_nothing_that_returned_is_lost(start_redis, eventually):
    server = start_redis("--appendfsync", "always")
    settings = FAST | {"retry_attempts": 30}
    written: list[int] = []
    sums: list[int] = []
    unknown: list[int] = []
    ended = threading.Event()

    def write(backend: RedisStateBackend, part: int) -> None:
        number = part
        while not ended.is_set():
            backend.put(f"k{number}", {"n": number})
            written.append(number)
            number += 2

    def count(backend: RedisStateBackend) -> None:
        while not ended.is_set():
            try:
                sums.append(backend.increment("n"))
            except UnknownOutcomeError:
                unknown.append(1)

    with RedisStateBackend.from_url(server.url, **settings) as backend:
        jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (write, (backend, 0)), (write, (backend, 1)), (count, (backend,)),
        ]  # fmt: skip
        threads = [threading.Thread(target=job, args=args) for job, args in jobs]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(written), len(sums)
            eventually(lambda b=before: len(written) > b[0] + 200 and len(sums) > b[1] + 50)
            server.kill()
            time.sleep(0.2)
            server.start()
        before = len(written), len(sums)
        eventually(lambda: len(written) > before[0] + 200 and len(sums) > before[1] + 50)
        ended.set()
        for thread in threads:
            thread.join(BOUND_SECONDS)
        assert backend.stats().retries >= 3
        assert dict(backend.stats().errors) == (
            {"UnknownOutcomeError": len(unknown)} if unknown else {}
        )
        kept = backend.batch_get([f"k{n}" for n in written])
        assert kept == {f"k{n}": {"n": n} for n in written}
        # Each sum was told once, and what isn't known was added once or not.
        assert len(set(sums)) == len(sums)
        assert len(sums) <= backend.get("n") <= len(sums) + len(unknown)


class Proxy(threading.Thread):
    """Pass bytes on to a server; hang up after a marked command went through, before the reply."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.target = ("127.0.0.1", port)
        self.cut: bytes = b""
        self.seen = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self.target) as server:
            while data := client.recv(65536):
                server.sendall(data)
                reply = server.recv(65536)
                if self.cut and self.cut in data:
                    self.seen += 1
                    self.cut = b"" if self.cut_once else self.cut
                    return
                client.sendall(reply)

    cut_once = True


@pytest.fixture
def proxy(redis_server) -> Iterator[Proxy]:
    proxy = Proxy(redis_server.port)
    proxy.start()
    yield proxy
    proxy.listener.close()


@pytest.fixture
def cut_backend(proxy, redis_url, prefix) -> Iterator[RedisStateBackend]:
    url = f"redis://127.0.0.1:{proxy.port}/{redis_url.rpartition('/')[2]}"
    with RedisStateBackend.from_url(url, **FAST | {"key_prefix": prefix}) as backend:
        yield backend


NOT_IDEMPOTENT = {
    "increment": lambda b: b.increment("marked"),
    "get_and_delete": lambda b: b.get_and_delete("marked"),
    "get_and_put": lambda b: b.get_and_put("marked", 1),
    "set_if_not_exists": lambda b: b.set_if_not_exists("marked", 1),
    "compare_and_put": lambda b: b.compare_and_put("marked", 1, None),
    "commit": lambda b: b.transact(lambda tx: tx.put("marked", 1)),
}


@pytest.mark.parametrize("name", NOT_IDEMPOTENT)
def test_what_is_not_idempotent_is_not_sent_again(cut_backend, proxy, name):
    warm = {n: call for n, call in NOT_IDEMPOTENT.items() if n == name}
    warm[name](cut_backend)  # the script is known from now on
    cut_backend.delete("marked")
    proxy.cut = b"marked"
    with pytest.raises(
        UnknownOutcomeError, match=f"{name} was sent.*may or may not|{name} was sent"
    ):
        NOT_IDEMPOTENT[name](cut_backend)
    assert proxy.seen == 1
    assert cut_backend.stats().retries == 0
    if name == "increment":
        assert cut_backend.get("marked") == 1


IDEMPOTENT = {
    "get": lambda b: b.get("marked"),
    "put": lambda b: b.put("marked", 2),
    "batch_put": lambda b: b.batch_put({"marked": 2}, ttl=timedelta(minutes=1)),
    "batch_get": lambda b: b.batch_get(["marked"]),
    "delete": lambda b: b.delete("marked"),
    "count": lambda b: b.count("marked"),
    "lock": lambda b: b.lock("marked", renew=False).acquire(),
}


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_what_is_idempotent_is_sent_again(cut_backend, proxy, name):
    cut_backend.put("marked", 1)
    proxy.cut = b"marked"
    IDEMPOTENT[name](cut_backend)
    assert proxy.seen == 1
    assert cut_backend.stats().retries == 1
    assert not cut_backend.stats().errors


def test_a_lock_whose_grant_was_lost_is_ours_all_the_same(cut_backend, proxy):
    with cut_backend.lock("marked") as lock:
        first = lock.token
    proxy.cut = b"marked"
    with cut_backend.lock("marked") as lock:
        assert lock.token == first + 1
        proxy.cut = b"marked"
    assert proxy.seen == 2


def test_retries_end_by_number_and_are_told(cut_backend, proxy, caplog):
    caplog.set_level(logging.INFO, "bytewax_redis_state.backend")
    proxy.cut, proxy.cut_once = b"marked", False
    with pytest.raises(ServerUnavailableError):
        cut_backend.get("marked")
    assert proxy.seen == 4
    assert cut_backend.stats().retries == 3
    assert dict(cut_backend.stats().errors) == {"ServerUnavailableError": 1}
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert events == ["event=retry"] * 3 + ["event=given_up"]
    proxy.cut_once = True
    cut_backend.get("marked")
    assert caplog.records[-1].getMessage().startswith("event=recovered operation=get")


def test_a_coroutine_is_tried_again_too(cut_backend, proxy):
    import asyncio

    async def main() -> None:
        async with cut_backend.aio as aio:
            await aio.increment("other")
            proxy.cut = b"marked"
            assert await aio.get("marked", 7) == 7
            await aio.increment("marked")
            proxy.cut = b"marked"
            with pytest.raises(UnknownOutcomeError):
                await aio.increment("marked")
            assert await aio.get("marked") == 2

    asyncio.run(main())
    assert (cut_backend.stats().retries, proxy.seen) == (1, 2)


def test_retries_end_by_time(start_redis):
    server = start_redis()
    settings = FAST | {
        "retry_attempts": 1000,
        "connect_timeout": timedelta(milliseconds=100),
        "read_timeout": timedelta(milliseconds=100),
        "write_timeout": timedelta(milliseconds=100),
        "retry_max_delay": timedelta(milliseconds=300),
    }
    with RedisStateBackend.from_url(server.url, **settings) as backend:
        server.kill()
        started = time.monotonic()
        with pytest.raises(ServerUnavailableError):
            backend.put("k", 1)
        assert time.monotonic() - started < 10  # a thousand attempts take minutes
        with pytest.raises(ServerUnavailableError):
            backend.increment("k")  # never sent, so no unknown outcome


def test_no_retry_where_none_is_wanted(start_redis):
    server = start_redis()
    with RedisStateBackend.from_url(server.url, **FAST | {"retry_attempts": 0}) as backend:
        server.kill()
        with pytest.raises(ServerUnavailableError):
            backend.get("k")
        assert backend.stats().retries == 0


def test_an_error_that_no_retry_mends_is_not_retried(backend, prefix):
    backend.client.hset(f"{prefix}hash", "a", 1)
    with pytest.raises(ServerError, match=r"get: .*WRONGTYPE"):
        backend.get("hash")
    assert backend.stats().retries == 0


def test_scripts_that_the_server_forgot_are_sent_again(backend):
    assert backend.increment("n") == 1
    backend.client.script_flush()
    assert backend.increment("n") == 2
    backend.client.script_flush()
    backend.batch_put({f"k{n}": n for n in range(500)}, ttl=timedelta(minutes=1))
    assert backend.count("k") == 500
    assert (backend.stats().retries, dict(backend.stats().errors)) == (0, {})


def test_a_server_that_is_not_there_is_told_at_construction():
    with pytest.raises(ServerUnavailableError):
        RedisStateBackend(RedisConfig(url="redis://127.0.0.1:1"))


def test_a_slow_operation_is_told(redis_url, prefix, caplog):
    with RedisStateBackend.from_url(
        redis_url, key_prefix=prefix, pool_min=1, slow=timedelta(microseconds=1)
    ) as backend:
        backend.put("k", 1)
    [record] = [r for r in caplog.records if "event=slow operation=put" in r.getMessage()]
    assert "seconds=" in record.getMessage()


def test_logs_hold_no_secret(start_redis, caplog):
    server = start_redis("--requirepass", "hunter2")
    url = server.url.replace("redis://", "redis://:hunter2@")
    with RedisStateBackend.from_url(url, **FAST) as backend:
        assert "hunter2" not in repr(backend)
        server.kill()
        with pytest.raises(ServerUnavailableError) as caught:
            backend.get("k")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caplog.text
    assert "event=retry" in caplog.text
