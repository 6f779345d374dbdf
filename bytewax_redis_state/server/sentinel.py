"""The primary that Sentinels name, and connections to it.

After a failover that an operator orders, the old primary stays writable for about ten seconds, and
these writes are lost when it becomes a replica. So a connection asks the Sentinels once a second
whether its server is still the primary, and closes if not.

Invariant: a new connection is to a server whose role is ``master``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import redis
import redis.asyncio.connection as async_connection
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's, on purpose
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)
from redis.sentinel import Sentinel

from bytewax_redis_state.config.topology import Topology

__all__ = [
    "AsyncPrimaryConnection",
    "AsyncPrimaryTLSConnection",
    "Primary",
    "PrimaryConnection",
    "PrimaryTLSConnection",
]

_ASK_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 10.0  # after no Sentinel has answered
_LONGEST_ANSWER = 1.0  # seconds that a Sentinel may take
_OF_TLS = "ssl_"


class Primary:
    """The current primary; connections and threads may share this object.

    :arg topology: The Sentinels and the name of the service.
    :arg options: Arguments of connections to the servers; TLS options are used for the Sentinels,
        too.
    """

    def __init__(self, topology: Topology, options: dict[str, Any]) -> None:
        self.topology = topology
        wait = min(options["socket_connect_timeout"], _LONGEST_ANSWER)
        shared = {n: v for n, v in options.items() if n.startswith(_OF_TLS)}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [tuple(host) for host in topology.hosts],
            sentinel_kwargs={
                **shared,
                **dict(topology.sentinel_login),
                "ssl": options.get("connection_class") is redis.SSLConnection,
                "socket_connect_timeout": wait,
                "socket_timeout": wait,
                "retry": options["retry"],
                "protocol": 2,
            },
        )
        self._lock = threading.Lock()
        self._found: tuple[str, int] | None = None
        self._due = 0.0

    def find(self) -> tuple[str, int]:
        """Ask the Sentinels for the primary.

        :returns: Host and port.
        :raises ConnectionError: If none of them names a primary that is up.
        """
        with self._lock:
            self._due = time.monotonic() + _ASK_AGAIN_SECONDS
            found: Any = self._sentinel.discover_master(self.topology.service)  # type: ignore[no-untyped-call]
            self._found = (str(found[0]), int(found[1]))
            self._due = time.monotonic() + _ASK_SECONDS
            return self._found

    def replicas(self) -> int:
        """Count the replicas that the Sentinels know to be up and to follow.

        A replica that a failover has just promoted counts until the Sentinels name it the primary.
        """
        with self._lock:
            service = self.topology.service
            for sentinel in self._sentinel.sentinels:
                try:
                    found = sentinel.sentinel_slaves(service)
                except (ConnectionError, TimeoutError):
                    continue
                return sum(
                    not (r["is_sdown"] or r["is_odown"] or r["is_disconnected"])
                    and r.get("master-link-status") == "ok"
                    for r in found
                )
        raise ConnectionError(f"no Sentinel of {service!r} answers")

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask the Sentinels again."""
        return time.monotonic() > self._due

    def is_another(self, host: str, port: int) -> bool:
        """Tell whether a server is known to be no longer the primary; asks when it is due."""
        if self.is_due:
            try:
                self.find()
            except RedisError:  # the connection may still be good
                return False
        return self._found is not None and self._found != (host, port)


def _no_primary(connection: Any, role: object) -> ConnectionError:
    return ConnectionError(f"{connection.host}:{connection.port} is not a primary but a {role!r}")


def _role(info: bytes | str) -> str:
    text = info.decode() if isinstance(info, bytes) else info
    lines = (line.partition(":") for line in text.splitlines())
    return next((role for name, _, role in lines if name == "role"), "")


def _is_read_only(error: ResponseError) -> bool:
    # Redis 6.2 wraps the error that a script met.
    return "READONLY" in f"{type(error).__name__.upper()} {error}"


class _Following:
    """Makes a connection follow the primary."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self.primary = primary

    def _connect(self: Any) -> Any:
        self.host, self.port = self.primary.find()
        return super()._connect()  # type: ignore[misc]

    def connect(self: Any) -> None:
        if self._sock:
            return
        super().connect()  # type: ignore[misc]
        self.send_command("INFO", "replication", check_health=False)
        role = _role(super().read_response())  # type: ignore[misc]
        if role != "master":
            self.disconnect()
            raise _no_primary(self, role)

    def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        if self._sock and self.primary.is_another(self.host, self.port):
            self.disconnect()
        if not self._sock:
            self.connect()
        super().send_packed_command(command, check_health=check_health)  # type: ignore[misc]

    def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if _is_read_only(error):
                self.disconnect()
            raise


class PrimaryConnection(_Following, redis.Connection):
    """A connection to the primary."""


class PrimaryTLSConnection(_Following, redis.SSLConnection):
    """A connection to the primary, with TLS."""


class _AsyncFollowing:
    """The same for asyncio; a thread asks the Sentinels."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self.primary = primary

    async def _connect(self: Any) -> None:
        self.host, self.port = await asyncio.to_thread(self.primary.find)
        await super()._connect()  # type: ignore[misc]

    async def connect(self: Any) -> None:
        if self.is_connected:
            return
        await super().connect()  # type: ignore[misc]
        await self.send_command("INFO", "replication", check_health=False)
        role = _role(await super().read_response())  # type: ignore[misc]
        if role != "master":
            await self.disconnect(nowait=True)
            raise _no_primary(self, role)

    async def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        if self.is_connected and await self._has_moved():
            await self.disconnect(nowait=True)
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(command, check_health=check_health)  # type: ignore[misc]

    async def _has_moved(self: Any) -> bool:
        if not self.primary.is_due:
            return bool(self.primary.is_another(self.host, self.port))
        return await asyncio.to_thread(self.primary.is_another, self.host, self.port)

    async def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if _is_read_only(error):
                await self.disconnect(nowait=True)
            raise


class AsyncPrimaryConnection(_AsyncFollowing, async_connection.Connection):
    """A connection to the primary, for asyncio."""


class AsyncPrimaryTLSConnection(_AsyncFollowing, async_connection.SSLConnection):
    """A connection to the primary, for asyncio and with TLS."""
