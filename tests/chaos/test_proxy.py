"""Faults of the network do what they say, seen from both ends of a connection."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from bytewax_redis_state.chaos.network.proxy import Listener, Proxy
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS


class Echo:
    """A server that answers what it gets, and remembers it."""

    def __init__(self):
        self.got: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    self.got.append(data)
                    connection.sendall(data)
            except OSError:
                pass

    def close(self):
        self._listening.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo):
    made = Proxy([Listener(("127.0.0.1", echo.port)) for _ in range(2)])
    made.start()
    yield made
    made.stop()


def connect(listener) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", listener.port), timeout=BOUND_SECONDS)
    made.settimeout(5)
    return made


def said(connection, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(65536)


def is_silent(connection) -> bool:
    connection.settimeout(0.3)
    try:
        return connection.recv(1) == b"?"
    except TimeoutError:
        return True


def is_reset(connection) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_without_a_fault_it_carries_everything(proxy):
    with connect(proxy.listeners[0]) as connection:
        assert said(connection, b"one") == b"one"


def test_a_cut_resets_what_there_is_and_what_comes_at_one_door_only(proxy):
    with connect(proxy.listeners[0]) as struck, connect(proxy.listeners[1]) as other:
        assert said(struck, b"one") == said(other, b"one") == b"one"
        proxy.cut([proxy.listeners[0]])
        assert is_reset(struck)
        with connect(proxy.listeners[0]) as late:
            assert is_reset(late)
        assert said(other, b"two") == b"two"
        proxy.heal([proxy.listeners[0]])
        with connect(proxy.listeners[0]) as again:
            assert said(again, b"three") == b"three"


def test_a_delay_holds_both_directions_back(proxy):
    with connect(proxy.listeners[0]) as connection:
        proxy.delay(proxy.listeners, 0.2)
        began = time.monotonic()
        assert said(connection, b"one") == b"one"
        assert time.monotonic() - began >= 0.4


def test_a_throttle_carries_so_many_bytes_a_second(proxy):
    with connect(proxy.listeners[0]) as connection:
        proxy.throttle(proxy.listeners, 20_000)
        began = time.monotonic()
        connection.sendall(bytes(8_000))
        left = 8_000
        while left:
            left -= len(connection.recv(left))
        assert time.monotonic() - began >= 0.35


@pytest.mark.parametrize("answers_only", [False, True])
def test_a_half_open_connection_says_nothing_and_a_new_one_works(
    proxy, echo, eventually, answers_only
):
    with connect(proxy.listeners[0]) as old:
        assert said(old, b"one") == b"one"
        proxy.half_open(proxy.listeners, answers_only=answers_only)
        old.sendall(b"two")
        assert is_silent(old)
        with connect(proxy.listeners[0]) as new:
            assert said(new, b"three") == b"three"
        assert (b"two" in echo.got) is answers_only
        proxy.heal(proxy.listeners)
        assert is_reset(old)


def test_what_a_broken_connection_held_arrives_late(proxy, echo, eventually):
    with connect(proxy.listeners[0]) as old:
        assert said(old, b"one") == b"one"
        proxy.hold_back(proxy.listeners)
        old.sendall(b"late")
        assert is_silent(old)
        proxy.break_held(proxy.listeners)
        assert is_reset(old)
    with connect(proxy.listeners[0]) as new:
        assert said(new, b"again") == b"again"
    assert echo.got == [b"one", b"again"]
    assert proxy.deliver(proxy.listeners) == 4
    eventually(lambda: echo.got == [b"one", b"again", b"late"])
