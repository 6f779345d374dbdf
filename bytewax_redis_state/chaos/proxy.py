"""A TCP proxy of the harness: the network between a dataflow process and Redis, which can fail.

Each process has a door of its own, so that one can be cut off while the others go on; of several
servers each has one. Invariant:
bytes keep their order within a connection, and nothing is made up: a connection carries a prefix
of what was sent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Door", "Proxy"]

T = TypeVar("T")
_CHUNK = 64 * 1024
_SLOW_CHUNK = 2048  # what a throttled connection carries at once
_ANSWER_SECONDS = 10.0


@dataclass(eq=False)
class _Link:
    """One connection through a door.

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
class Door:
    """What is connected to in place of a server.

    :arg server: Its host and port.
    :arg port: Where the door is, on the loopback; any, if 0, until it is open.
    """

    server: tuple[str, int]
    port: int = 0
    delay: float = 0.0
    rate: float = 0.0
    shut: bool = False
    links: set[_Link] = field(default_factory=set)


class Proxy:
    """Doors to servers; runs in a thread of its own.

    :arg doors: Opened by :meth:`start`.
    """

    def __init__(self, doors: list[Door]) -> None:
        self.doors = doors
        self.carried = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Open the doors."""
        self._thread.start()
        self._do(self._open())

    def stop(self) -> None:
        """Shut them for good."""
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- faults: which doors are struck is up to the caller ----------------------------------

    def cut(self, doors: list[Door]) -> None:
        """Reset all connections, and each that is made until :meth:`mend`."""
        self._on(doors, _shut)

    def delay(self, doors: list[Door], seconds: float) -> None:
        """Hold each piece back for so long, in both directions."""
        self._on(doors, lambda door: setattr(door, "delay", seconds))

    def throttle(self, doors: list[Door], rate: float) -> None:
        """Carry so many bytes a second over each connection and direction."""
        self._on(doors, lambda door: setattr(door, "rate", rate))

    def half_open(self, doors: list[Door], *, answers_only: bool) -> None:
        """Let the connections that there are go dead without a word; new ones work.

        :arg answers_only: Requests arrive still, their answers do not.
        """
        self._on(doors, lambda door: _go_dead(door, answers_only))

    def hold_back(self, doors: list[Door]) -> None:
        """Keep all further requests of the connections that there are; new ones work."""
        self._on(doors, _hold)

    def break_held(self, doors: list[Door]) -> None:
        """Reset the client's side of connections whose requests are kept."""
        self._on(doors, _break_held)

    def deliver(self, doors: list[Door]) -> int:
        """Let the server have what was kept, however late, and then see its connection end.

        :returns: How many bytes there were.
        """
        return self._do(self._deliver(doors))

    def mend(self, doors: list[Door]) -> None:
        """End all faults; connections that are dead are reset."""
        self._on(doors, _mend)

    # -- the loop -----------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    def _on(self, doors: list[Door], change: Callable[[Door], object]) -> None:
        async def work() -> None:
            for door in doors:
                change(door)

        self._do(work())

    async def _open(self) -> None:
        for door in self.doors:

            async def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door = door
            ) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._tasks.add(task)
                try:
                    with suppress(asyncio.CancelledError):  # by _close(), nobody else's
                        await self._accept(door, reader, writer)
                finally:
                    self._tasks.discard(task)

            server = await asyncio.start_server(accept, "127.0.0.1", door.port)
            door.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for door in self.doors:
            for link in list(door.links):
                link.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(
        self, door: Door, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if door.shut:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*door.server)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        door.links.add(link)
        answers = asyncio.create_task(self._answers(door, link, server_reader))
        try:
            await self._requests(door, link, reader)
        finally:
            if link.held is None:
                link.abort()
            answers.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await answers
            if link.held is None:
                door.links.discard(link)

    async def _requests(self, door: Door, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(_SLOW_CHUNK if door.rate else _CHUNK):
                await self._weather(door, len(data))
                if link.held is not None:
                    link.held.append(data)
                elif not link.dead:
                    link.server.write(data)
                    await link.server.drain()
                    self.carried += len(data)

    async def _answers(self, door: Door, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(_SLOW_CHUNK if door.rate else _CHUNK):
                await self._weather(door, len(data))
                if not (link.dead or link.mute or link.held is not None):
                    link.client.write(data)
                    await link.client.drain()
        # A server that is gone is seen at once; behind a dead connection nobody hears of it.
        if not (link.dead or link.mute or link.held is not None):
            link.abort()

    async def _weather(self, door: Door, size: int) -> None:
        if door.delay:
            await asyncio.sleep(door.delay)
        if door.rate:
            await asyncio.sleep(size / door.rate)

    async def _deliver(self, doors: list[Door]) -> int:
        size = 0
        for door in doors:
            for link in [link for link in door.links if link.held is not None]:
                data = b"".join(link.held or ())
                size += len(data)
                with suppress(OSError):
                    link.server.write(data)
                    await link.server.drain()
                    link.server.close()
                link.client.transport.abort()
                door.links.discard(link)
        return size


def _shut(door: Door) -> None:
    door.shut = True
    for link in door.links:
        link.abort()


def _go_dead(door: Door, answers_only: bool) -> None:
    for link in door.links:
        link.mute = True
        link.dead = link.dead or not answers_only


def _hold(door: Door) -> None:
    for link in door.links:
        link.held = []


def _break_held(door: Door) -> None:
    for link in door.links:
        if link.held is not None:
            link.client.transport.abort()


def _mend(door: Door) -> None:
    door.shut, door.delay, door.rate = False, 0.0, 0.0
    for link in door.links:
        if link.dead or link.mute:
            link.abort()
