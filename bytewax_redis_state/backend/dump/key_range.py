"""A key range: all keys of one prefix, as a dump reads them and a restore writes them.

A restore keeps a marker in Redis while it runs, and an interrupted restore leaves the marker
behind. The marker is one of the backend's own keys, as locks are: no listing shows them, no dump
reads them, and ``clear`` leaves them.

Invariant: one page is held in memory. A page ends after :data:`PAGE_KEYS` keys, or with the value
that takes it over :data:`PAGE_BYTES`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, Protocol

from redis.exceptions import NoScriptError, ResponseError

from bytewax_redis_state.backend.dump.checkpoint_file import Page
from bytewax_redis_state.backend.generator import Command
from bytewax_redis_state.errors import CheckpointError
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.scripts.state_scripts import StateScripts, with_source
from bytewax_redis_state.server.client import Client, address_of
from bytewax_redis_state.server.probe import probe
from bytewax_redis_state.server.translation import translated

__all__ = ["PAGE_BYTES", "PAGE_KEYS", "KeyRange", "PageRead", "RedisKeyRange"]

PAGE_KEYS = 1000
"""Keys that are listed, read or written in one round trip."""

PAGE_BYTES = 8 << 20
"""Bytes of values after which a page ends."""


Send = Callable[..., None]
Receive = Callable[[], Any]


class PageRead(NamedTuple):
    """A page, and how far the reading is.

    :arg page: The records.
    :arg vanished: How many keys were listed and had no value when they were read.
    :arg total: An estimate of all keys, from how far the listing is.
    """

    page: Page
    vanished: int
    total: int


class KeyRange(Protocol):
    """All keys of one prefix, on a server or in memory."""

    prefix: bytes
    address: str

    def identity(self) -> str:
        """Name the database of the keys; equal for two key ranges of one database."""

    def server(self) -> str:
        """Name the server's flavour and version."""

    def clock(self) -> int:
        """Tell the server's time, milliseconds since 1970."""

    def is_empty(self) -> bool:
        """Tell whether there is no key."""

    def read(self) -> Iterator[PageRead]:
        """Read all records that are there from beginning to end of the reading.

        A record that is written meanwhile may or may not be read; a key may come twice.
        """

    def write(self, page: Page) -> int:
        """Write the records in place of older ones; gives the number of older ones."""

    def clear(self) -> None:
        """Delete all keys."""

    def marker(self) -> bytes:
        """Read the marker of a restore, empty for none."""

    def mark(self, seen: bytes, value: bytes) -> bool:
        """Replace the marker if it is still the one that was seen; empty stands for none."""


class RedisKeyRange:
    """All keys of one prefix on a Redis server, over one connection.

    :arg client: Replies in bytes; no other code may use it meanwhile.
    :arg prefix: What the keys start with; taken literally.
    """

    def __init__(self, client: Client, prefix: bytes) -> None:
        self.prefix = prefix
        self.address = address_of(client)
        self._client: Any = client  # redis-py types replies as blocking or awaitable
        self._keys = PrefixKeys(prefix)

    def identity(self) -> str:
        """Name the database of the keys; equal for two key ranges of one database."""
        with translated(self.address):
            server = self._client.info("server")
        database = self._client.connection_pool.connection_kwargs.get("db") or 0
        return f"{server['run_id']}/{database}"

    def server(self) -> str:
        """Name the server's flavour and version."""
        return probe(self._client).name

    def clock(self) -> int:
        """Tell the server's time, milliseconds since 1970."""
        with translated(self.address):
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def is_empty(self) -> bool:
        """Tell whether there is no key; lists the whole database if there is none."""
        return next((keys for keys in self._listing() if keys), None) is None

    def read(self) -> Iterator[PageRead]:
        """Read all records; a record that is written meanwhile may or may not be read.

        The cursor of a SCAN is worth nothing on another server, or on this one after a restart. So
        the reading uses one connection, and ends with an error when that breaks.

        :raises CheckpointError: If a key holds no string.
        :raises ServerError: If the server goes away or refuses.
        """
        with pipelined_connection(self._client, self.address) as (send, receive):
            yield from self._read(send, receive)

    def _read(self, send: Send, receive: Receive) -> Iterator[PageRead]:
        """Keep two pages and a listing under way, so that the server never waits for us."""
        # Requests without a reply yet: the keys of a page, None for a listing.
        in_flight: deque[list[bytes] | None] = deque()
        cursor, listed, total = -1, 0, 0
        keys: list[bytes] = []
        ready: PageRead | None = None
        while True:
            full = len(keys) >= PAGE_KEYS or not cursor
            part = keys[:PAGE_KEYS] if full and len(in_flight) - in_flight.count(None) < 2 else []
            keys = keys[len(part) :]
            if cursor and None not in in_flight and len(keys) < PAGE_KEYS:
                send(*self._scan(cursor))
                in_flight.append(None)
            if part:
                send(*with_source(StateScripts.read_page(part, PAGE_BYTES)))
                in_flight.append(part)
            if ready and not (in_flight and in_flight[0] is None):
                yield ready
                ready = None
            if not in_flight:
                return
            asked = in_flight.popleft()
            if asked is None:
                answer, found = receive()
                cursor = int(answer)
                keys += self._shown(found)
                listed += len(found)
                total = round(listed / _share(cursor))
            else:
                at, values, ttls = receive()
                ready = self._reading(at, asked, values, ttls, total)
                keys = asked[len(values) :] + keys

    def write(self, page: Page) -> int:
        """Write the records in place of older ones; gives the number of older ones."""
        there = 0
        for start in range(0, len(page.keys), PAGE_KEYS):
            part = slice(start, start + PAGE_KEYS)
            keys = [self.prefix + key for key in page.keys[part]]
            command = StateScripts.write_page(keys, page.values[part], page.ttls[part])
            there += self._run(command)
        return there

    def clear(self) -> None:
        """Delete all keys."""
        for keys in self._listing():
            with translated(self.address):
                self._client.unlink(*keys)

    def marker(self) -> bytes:
        """Read the marker of a restore, empty for none."""
        with translated(self.address):
            return self._client.get(self._keys.restore) or b""

    def mark(self, seen: bytes, value: bytes) -> bool:
        """Replace the marker if it is still the one that was seen; empty stands for none."""
        return bool(self._run(StateScripts.mark_restore(self._keys.restore, seen, value)))

    def _run(self, command: Command) -> int:
        with translated(self.address):
            try:
                return int(self._client.execute_command(*command))
            except NoScriptError:
                return int(self._client.execute_command(*with_source(command)))

    def _listing(self) -> Iterator[list[bytes]]:
        cursor = -1
        with pipelined_connection(self._client, self.address) as (send, receive):
            while cursor:
                send(*self._scan(cursor))
                answer, found = receive()
                cursor = int(answer)
                if keys := self._shown(found):
                    yield keys

    def _scan(self, cursor: int) -> Command:
        return ("SCAN", max(cursor, 0), "MATCH", self._keys.pattern(), "COUNT", PAGE_KEYS)

    def _shown(self, keys: list[bytes]) -> list[bytes]:
        is_users = self._keys.is_users
        return [key for key in dict.fromkeys(keys) if is_users(key)]

    def _reading(
        self, at: int, keys: list[bytes], values: list[Any], ttls: list[int], total: int
    ) -> PageRead:
        cut = len(self.prefix)
        if None not in values and 1 not in values:
            found = [key[cut:] for key in islice(keys, len(values))]
            return PageRead(Page(at, found, values, ttls), 0, total)
        for key, value in zip(keys, values, strict=False):
            if value == 1:
                raise CheckpointError(
                    f"key {key!r} at {self.address} holds no string, so no state backend wrote it",
                    "delete the key, or use a prefix that no other program uses",
                )
        left = [index for index, value in enumerate(values) if value is not None]
        page = Page(
            at,
            [keys[index][cut:] for index in left],
            [values[index] for index in left],
            [ttls[index] for index in left] if ttls else [],
        )
        return PageRead(page, len(values) - len(left), total)


def _share(cursor: int) -> float:
    """Tell how far a SCAN is, from 0 to 1: a cursor counts with its bits reversed."""
    if cursor == 0:
        return 1.0
    return int(f"{cursor:b}"[::-1], 2) / (1 << cursor.bit_length())


@contextmanager
def pipelined_connection(client: Client, address: str) -> Iterator[tuple[Send, Receive]]:
    """Take a connection on which requests are sent before earlier ones are answered.

    :arg client: The client whose connection is taken.
    :arg address: The server's name in errors.
    :returns: A function that sends a command, and one that receives the next reply.
    """
    with translated(address):
        connection: Any = client.connection_pool.get_connection()
    unread = 0

    def send(*command: Any) -> None:
        nonlocal unread
        with translated(address):
            connection.send_command(*command, check_health=False)
        unread += 1

    def receive() -> Any:
        nonlocal unread
        with translated(address):
            try:
                reply = connection.read_response()
            except ResponseError:
                unread -= 1
                raise
        unread -= 1
        return reply

    try:
        yield send, receive
    finally:
        if unread:
            connection.disconnect()
        client.connection_pool.release(connection)
