"""The connections of event loops, and of interrupted threads: none is left open or lost."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.errors import ServerLoginError, ServerUnavailableError


def connections(backend: RedisStateBackend) -> int:
    name = f"bytewax-redis-state/{backend.config.key_prefix}"
    return sum(client["name"] == name for client in backend.client.client_list())


def test_an_event_loop_that_ends_leaves_no_connection(backend, eventually):
    for number in range(200):
        asyncio.run(backend.aio.put("k", number))
    eventually(lambda: connections(backend) == 1)
    assert backend.aio._pools == {}
    assert backend.get("k") == 199


def test_a_loop_that_was_only_closed_leaves_its_connections_to_the_next_one(backend, eventually):
    for number in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(backend.aio.put("k", number))
        loop.close()
    assert connections(backend) <= 3
    asyncio.run(backend.aio.get("k"))
    eventually(lambda: connections(backend) == 1)


def test_closing_a_backend_closes_the_connections_of_all_loops(redis_url, prefix, eventually):
    watcher = RedisStateBackend.from_url(redis_url, key_prefix=prefix, pool_min=1)
    backend = RedisStateBackend.from_url(redis_url, key_prefix=prefix, pool_min=1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def put(value: int) -> None:
        asyncio.run_coroutine_threadsafe(backend.aio.put("k", value), loop).result(60)

    put(1)
    ended = asyncio.new_event_loop()
    ended.run_until_complete(backend.aio.get("k"))
    ended.close()
    assert connections(watcher) == 4
    backend.close()
    eventually(lambda: connections(watcher) == 1)
    put(2)  # work goes on
    asyncio.run_coroutine_threadsafe(backend.aio.close(), loop).result(60)
    eventually(lambda: connections(watcher) == 1)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert watcher.get("k") == 2
    watcher.close()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_refused_login_is_named_at_once(start_redis, kind):
    server = start_redis()
    admin = RedisStateBackend.from_url(server.url, pool_min=1)
    admin.client.execute_command("ACL", "SETUSER", "app", "on", ">old", "~*", "&*", "+@all")
    url = server.url.replace("redis://", "redis://app:old@")
    with admin, RedisStateBackend.from_url(url, key_prefix="x:", pool_min=1) as backend:
        admin.client.execute_command("ACL", "SETUSER", "app", "resetpass", ">new")
        admin.client.client_kill_filter(user="app")
        read = backend.get if kind == "blocking" else lambda key: asyncio.run(backend.aio.get(key))
        with pytest.raises(ServerLoginError, match="check user and password in the URL"):
            read("k")
        assert backend.stats().retries == 0


class _StruckError(Exception):
    """What the signal handler raises."""


def test_exceptions_of_a_signal_handler_lose_no_place_in_the_pool(redis_url, prefix):
    def strike(*_: object) -> None:
        raise _StruckError

    config = RedisConfig(url=redis_url, key_prefix=prefix, pool_min=1, pool_max=2)
    before = signal.signal(signal.SIGALRM, strike)
    struck = 0
    try:
        with RedisStateBackend(config) as backend:
            end = time.monotonic() + 120
            while struck < 300 and time.monotonic() < end:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + struck % 17 * 0.00003)
                    for number in range(50):
                        backend.put("k", number)
                        assert backend.get("k") == number
                except _StruckError:
                    struck += 1
                except ServerUnavailableError:  # redis-py took it for an error of the connection
                    pass
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            assert struck == 300
            taken = [backend._pool._take() for _ in range(2)]
            assert len(taken) == 2
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_at_any_line_of_the_pool_loses_no_place(redis_url, prefix):
    config = RedisConfig(
        url=redis_url, key_prefix=prefix, pool_min=1, pool_max=2, retry_attempts=0,
        connect_timeout=timedelta(seconds=1),
    )  # fmt: skip
    lines = 0

    def strike_at(number: int) -> Callable[..., Any]:
        def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            nonlocal lines
            if not frame.f_code.co_filename.endswith("connection_pool.py"):
                return None
            lines += event == "line"
            if lines == number and event == "line":
                raise _StruckError
            return trace

        return trace

    with RedisStateBackend(config) as backend:
        for opens in (True, False):  # a connection that has to be made, and one that is there
            number = 0
            while lines >= number:
                number, lines = number + 1, 0
                if opens:
                    backend.close()
                sys.settrace(strike_at(number))
                try:
                    backend.put("k", number)
                except _StruckError:
                    pass
                finally:
                    sys.settrace(None)
            assert number > 5
        assert len([backend._pool._take() for _ in range(2)]) == 2
