"""One round trip to a Redis Cluster: to each node that serves keys of it, to all at once.

Invariant: every node's part that was sent is also received, so no connection goes back with a
reply left unread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from typing import Any

from bytewax_redis_state.backend.generator import Command, run_generator, run_generator_async
from bytewax_redis_state.backend.transport.connection_pool import (
    AsyncConnectionPool,
    ConnectionPool,
)
from bytewax_redis_state.backend.transport.round_trip import RoundTripError
from bytewax_redis_state.backend.transport.routing import NodeCommands, NodeReplies, Router
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.topology import Host

__all__ = ["AsyncClusterPool", "ClusterPool"]


class ClusterPool:
    """As ``ConnectionPool``, for all nodes of a cluster; each node has connections of its own.

    :arg config: Where the cluster is.
    :arg name: What ``CLIENT LIST`` shows.
    """

    def __init__(self, config: RedisConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._router = Router(config.topology.hosts)
        self._pools: dict[Host, ConnectionPool] = {}
        self._lock = threading.Lock()

    def _pool(self, host: Host) -> ConnectionPool:
        pool = self._pools.get(host)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(host, ConnectionPool(self._config, self._name, host))
        return pool

    def open_minimum(self) -> None:
        """Open ``pool_min`` connections to each node.

        :raises RoundTripError: If a connection can't be opened.
        """
        self.exchange([("PING",)])
        for host in self._router.nodes:
            self._pool(host).open_minimum()

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Make one round trip; as ``ConnectionPool.exchange``."""
        return run_generator(self._router.round_trip(commands), self._send_and_receive)

    def _send_and_receive(self, parts: Sequence[NodeCommands]) -> list[NodeReplies]:
        sent: list[Any] = []
        for part in parts:
            try:
                sent.append(self._pool(part.host).begin(part.commands))
            except RoundTripError as error:
                sent.append(error)
        return [self._received(part, one) for part, one in zip(parts, sent, strict=True)]

    def _received(self, part: NodeCommands, sent: Any) -> NodeReplies:
        if isinstance(sent, RoundTripError):
            return sent
        try:
            return self._pool(part.host).finish(sent, len(part.commands))
        except RoundTripError as error:
            return error

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in self._pools.values():
            pool.close()


class AsyncClusterPool:
    """As ``AsyncConnectionPool``, for all nodes of a cluster.

    :arg config: Where the cluster is.
    :arg name: What ``CLIENT LIST`` shows.
    """

    def __init__(self, config: RedisConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._router = Router(config.topology.hosts)
        self._pools: dict[Host, AsyncConnectionPool] = {}

    def _pool(self, host: Host) -> AsyncConnectionPool:
        if host not in self._pools:
            self._pools[host] = AsyncConnectionPool(self._config, self._name, host)
        return self._pools[host]

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Make one round trip; as ``ConnectionPool.exchange``."""
        round_trip = self._router.round_trip(commands)
        return await run_generator_async(round_trip, self._send_and_receive)

    def _send_and_receive(self, parts: Sequence[NodeCommands]) -> Awaitable[list[NodeReplies]]:
        return asyncio.gather(*map(self._exchange_with_node, parts))

    async def _exchange_with_node(self, part: NodeCommands) -> NodeReplies:
        try:
            return await self._pool(part.host).exchange(part.commands)
        except RoundTripError as error:
            return error

    async def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in self._pools.values():
            await pool.close()

    def close_from_outside(self, *, ended: bool) -> None:
        """As ``AsyncConnectionPool.close_from_outside``."""
        for pool in list(self._pools.values()):
            pool.close_from_outside(ended=ended)
