"""A TCP proxy: the network between the processes of a dataflow and Redis, which can fail.

Each process has a listener of its own, so that one can be cut off while the others go on. Where
Redis is a group of servers, each server has one. Invariant: the proxy keeps the order of the bytes
within a connection and adds none, so that the receiver gets a prefix of the sender's bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Listener", "Proxy"]

T = TypeVar("T")
_CHUNK = 64 * 1024
_SLOW_CHUNK = 2048  # what a throttled connection carries at once
_ANSWER_SECONDS = 10.0


@dataclass(eq=False)
class _Connection:
    """One connection through a listener.

    :arg dead: Nothing is carried any more, and neither side is told.
    :arg mute: Answers are no longer carried.
    :arg held: Requests that are kept back, where they are.
    """

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    dead: bool = False
    mute: bool = False
    held: list[bytes] | None = None

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class Listener:
    """What is connected to in place of a server.

    :arg server: Its host and port.
    :arg port: Where the listener is, on the loopback; any, if 0, until it is open.
    """

    server: tuple[str, int]
    port: int = 0
    delay: float = 0.0
    rate: float = 0.0
    shut: bool = False
    connections: set[_Connection] = field(default_factory=set)


class Proxy:
    """Doors to servers; runs in a thread of its own.

    :arg listeners: Opened by :meth:`start`.
    """

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self.carried = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Open the listeners."""
        self._thread.start()
        self._do(self._open())

    def stop(self) -> None:
        """Shut them for good."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- faults: which listeners are struck is up to the caller ----------------------------------

    def cut(self, listeners: list[Listener]) -> None:
        """Reset all connections, and each that is made until :meth:`mend`."""
        self._on(listeners, _shut)

    def delay(self, listeners: list[Listener], seconds: float) -> None:
        """Hold each piece back for so long, in both directions."""
        self._on(listeners, lambda listener: setattr(listener, "delay", seconds))

    def throttle(self, listeners: list[Listener], rate: float) -> None:
        """Carry so many bytes a second over each connection and direction."""
        self._on(listeners, lambda listener: setattr(listener, "rate", rate))

    def half_open(self, listeners: list[Listener], *, answers_only: bool) -> None:
        """Let the connections that there are go dead without a word; new ones work.

        :arg answers_only: Requests arrive still, their answers do not.
        """
        self._on(listeners, lambda listener: _go_dead(listener, answers_only))

    def hold_back(self, listeners: list[Listener]) -> None:
        """Keep all further requests of the connections that there are; new ones work."""
        self._on(listeners, _hold)

    def break_held(self, listeners: list[Listener]) -> None:
        """Reset the client's side of connections whose requests are kept."""
        self._on(listeners, _break_held)

    def deliver(self, listeners: list[Listener]) -> int:
        """Let the server have what was kept, however late, and then see its connection end.

        :returns: How many bytes there were.
        """
        return self._do(self._deliver(listeners))

    def mend(self, listeners: list[Listener]) -> None:
        """End all faults; connections that are dead are reset."""
        self._on(listeners, _mend)

    # -- the loop -----------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    def _on(self, listeners: list[Listener], change: Callable[[Listener], object]) -> None:
        async def work() -> None:
            for listener in listeners:
                change(listener)

        self._do(work())

    async def _open(self) -> None:
        for listener in self.listeners:

            async def accept(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                listener: Listener = listener,
            ) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._tasks.add(task)
                try:
                    with suppress(asyncio.CancelledError):  # by _close(), nobody else's
                        await self._accept(listener, reader, writer)
                finally:
                    self._tasks.discard(task)

            server = await asyncio.start_server(accept, "127.0.0.1", listener.port)
            listener.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for listener in self.listeners:
            for connection in list(listener.connections):
                connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(
        self, listener: Listener, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if listener.shut:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*listener.server)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, server_writer)
        listener.connections.add(connection)
        answers = asyncio.create_task(self._answers(listener, connection, server_reader))
        try:
            await self._requests(listener, connection, reader)
        finally:
            if connection.held is None:
                connection.abort()
            answers.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await answers
            if connection.held is None:
                listener.connections.discard(connection)

    async def _requests(
        self, listener: Listener, connection: _Connection, reader: asyncio.StreamReader
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_SLOW_CHUNK if listener.rate else _CHUNK):
                await self._slow_down(listener, len(data))
                if connection.held is not None:
                    connection.held.append(data)
                elif not connection.dead:
                    connection.server.write(data)
                    await connection.server.drain()
                    self.carried += len(data)

    async def _answers(
        self, listener: Listener, connection: _Connection, reader: asyncio.StreamReader
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_SLOW_CHUNK if listener.rate else _CHUNK):
                await self._slow_down(listener, len(data))
                if not (connection.dead or connection.mute or connection.held is not None):
                    connection.client.write(data)
                    await connection.client.drain()
        # A server that is gone is seen at once; behind a dead connection nobody hears of it.
        if not (connection.dead or connection.mute or connection.held is not None):
            connection.abort()

    async def _slow_down(self, listener: Listener, size: int) -> None:
        if listener.delay:
            await asyncio.sleep(listener.delay)
        if listener.rate:
            await asyncio.sleep(size / listener.rate)

    async def _deliver(self, listeners: list[Listener]) -> int:
        size = 0
        for listener in listeners:
            for connection in [
                connection for connection in listener.connections if connection.held is not None
            ]:
                data = b"".join(connection.held or ())
                size += len(data)
                with suppress(OSError):
                    connection.server.write(data)
                    await connection.server.drain()
                    connection.server.close()
                connection.client.transport.abort()
                listener.connections.discard(connection)
        return size


def _shut(listener: Listener) -> None:
    listener.shut = True
    for connection in listener.connections:
        connection.abort()


def _go_dead(listener: Listener, answers_only: bool) -> None:
    for connection in listener.connections:
        connection.mute = True
        connection.dead = connection.dead or not answers_only


def _hold(listener: Listener) -> None:
    for connection in listener.connections:
        connection.held = []


def _break_held(listener: Listener) -> None:
    for connection in listener.connections:
        if connection.held is not None:
            connection.client.transport.abort()


def _mend(listener: Listener) -> None:
    listener.shut, listener.delay, listener.rate = False, 0.0, 0.0
    for connection in listener.connections:
        if connection.dead or connection.mute:
            connection.abort()
