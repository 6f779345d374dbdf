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
_ANSWER_SECONDS = 60.0  # of the loop to a request of another thread


@dataclass(eq=False)
class _Connection:
    """One connection through a listener.

    :arg dead: The proxy drops all bytes, and neither side is told.
    :arg mute: The proxy drops the answers.
    :arg held: Requests that the proxy keeps back; ``None`` where it keeps back none.
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
    """A port of the proxy, to which clients connect in place of a server.

    :arg server: Host and port of the server.
    :arg port: On the loopback; 0 lets the kernel choose one when the listener opens.
    :arg delay: Seconds by which each piece is held back.
    :arg rate: Bytes a second that a connection carries; 0 for no bound.
    :arg shut: Whether connections are reset.
    """

    server: tuple[str, int]
    port: int = 0
    delay: float = 0.0
    rate: float = 0.0
    shut: bool = False
    connections: set[_Connection] = field(default_factory=set)


class Proxy:
    """Carries bytes between clients and servers, in an event loop with a thread of its own.

    :arg listeners: Opened by :meth:`start`.
    """

    def __init__(self, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Open the listeners."""
        self._thread.start()
        self._do(self._open())

    def stop(self) -> None:
        """Close the listeners and end the thread."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- faults: the caller chooses the listeners ----------------------------------

    def cut(self, listeners: list[Listener]) -> None:
        """Reset all connections, and each new one until :meth:`heal`."""
        self._on(listeners, _shut)

    def delay(self, listeners: list[Listener], seconds: float) -> None:
        """Hold each piece back for some seconds, in both directions."""
        self._on(listeners, lambda listener: setattr(listener, "delay", seconds))

    def throttle(self, listeners: list[Listener], rate: float) -> None:
        """Carry at most ``rate`` bytes a second over each connection and direction."""
        self._on(listeners, lambda listener: setattr(listener, "rate", rate))

    def half_open(self, listeners: list[Listener], *, answers_only: bool) -> None:
        """Let the present connections go dead, unknown to both sides; new ones work.

        :arg answers_only: Requests still arrive, but their answers do not.
        """
        self._on(listeners, lambda listener: _go_dead(listener, answers_only))

    def hold_back(self, listeners: list[Listener]) -> None:
        """Keep back all further requests of the present connections; new ones work."""
        self._on(listeners, _hold)

    def break_held(self, listeners: list[Listener]) -> None:
        """Reset the client's side of connections whose requests are kept back."""
        self._on(listeners, _break_held)

    def deliver(self, listeners: list[Listener]) -> int:
        """Send the requests that were kept back to the server, then end its connection.

        :returns: The number of bytes.
        """
        return self._do(self._deliver(listeners))

    def heal(self, listeners: list[Listener]) -> None:
        """End all faults; reset the connections that are dead."""
        self._on(listeners, _heal)

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

    async def _answers(
        self, listener: Listener, connection: _Connection, reader: asyncio.StreamReader
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_SLOW_CHUNK if listener.rate else _CHUNK):
                await self._slow_down(listener, len(data))
                if not (connection.dead or connection.mute or connection.held is not None):
                    connection.client.write(data)
                    await connection.client.drain()
        # The client learns of the server's end at once, but not through a dead connection.
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


def _heal(listener: Listener) -> None:
    listener.shut, listener.delay, listener.rate = False, 0.0, 0.0
    for connection in listener.connections:
        if connection.dead or connection.mute:
            connection.abort()
