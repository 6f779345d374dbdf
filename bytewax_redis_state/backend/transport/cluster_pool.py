"""One trip to a Redis Cluster: a leg to each node that has keys of it, all at once.

Invariant: every leg that was begun is finished, so no connection has a reply left unread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

from bytewax_redis_state.backend.operation import Command, Pause
from bytewax_redis_state.backend.transport.connection_pool import (
    AsyncConnectionPool,
    ConnectionPool,
)
from bytewax_redis_state.backend.transport.routing import Leg, Outcome, Router
from bytewax_redis_state.backend.transport.trip import TripError
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.topology import Host

__all__ = ["AsyncClusterPool", "ClusterPool"]


class ClusterPool:
    """As ``ConnectionPool``, for all nodes of a cluster; each has connections of its own.

    :arg config: Where the cluster is.
    :arg name: What ``CLIENT LIST`` shows.
    """

    def __init__(self, config: RedisConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._router = Router(config.topology.hosts)
        self._wires: dict[Host, ConnectionPool] = {}
        self._lock = threading.Lock()

    def _wire(self, host: Host) -> ConnectionPool:
        wire = self._wires.get(host)
        if wire is None:
            with self._lock:
                wire = self._wires.setdefault(host, ConnectionPool(self._config, self._name, host))
        return wire

    def open_minimum(self) -> None:
        """Open the connections to each node that there are to be at least.

        :raises TripError: If one can't be opened.
        """
        self.exchange([("PING",)])
        for host in self._router.nodes:
            self._wire(host).open_minimum()

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Make one trip; as ``ConnectionPool.exchange``."""
        trip = self._router.trip(commands)
        try:
            step = next(trip)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(trip)
                else:
                    step = trip.send(self._travel(step))
        except StopIteration as done:
            replies: list[Any] = done.value
            return replies

    def _travel(self, legs: Sequence[Leg]) -> list[Outcome]:
        begun: list[Any] = []
        for leg in legs:
            try:
                begun.append(self._wire(leg.host).begin(leg.commands))
            except TripError as error:
                begun.append(error)
        return [self._finished(leg, one) for leg, one in zip(legs, begun, strict=True)]

    def _finished(self, leg: Leg, begun: Any) -> Outcome:
        if isinstance(begun, TripError):
            return begun
        try:
            return self._wire(leg.host).finish(begun, len(leg.commands))
        except TripError as error:
            return error

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for wire in self._wires.values():
            wire.close()


class AsyncClusterPool:
    """As ``AsyncConnectionPool``, for all nodes of a cluster.

    :arg config: Where the cluster is.
    :arg name: What ``CLIENT LIST`` shows.
    """

    def __init__(self, config: RedisConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._router = Router(config.topology.hosts)
        self._wires: dict[Host, AsyncConnectionPool] = {}

    def _wire(self, host: Host) -> AsyncConnectionPool:
        if host not in self._wires:
            self._wires[host] = AsyncConnectionPool(self._config, self._name, host)
        return self._wires[host]

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Make one trip; as ``ConnectionPool.exchange``."""
        trip = self._router.trip(commands)
        try:
            step = next(trip)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(trip)
                else:
                    step = trip.send(await asyncio.gather(*map(self._travel, step)))
        except StopIteration as done:
            replies: list[Any] = done.value
            return replies

    async def _travel(self, leg: Leg) -> Outcome:
        try:
            return await self._wire(leg.host).exchange(leg.commands)
        except TripError as error:
            return error

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        for wire in self._wires.values():
            await wire.close()
