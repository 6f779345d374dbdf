"""Several servers, of which one takes over from another.

Each server may announce a listener of a proxy in place of its own port. Then clients and replicas
connect through the listener; so do Sentinels, but not the bus of a cluster.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from bytewax_redis_state.chaos.network.ports import free_ports
from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.keys import hash_tag_of

__all__ = ["PERSISTENT", "ServerGroup", "announced_ports"]

PERSISTENT = (
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--repl-diskless-sync-delay", "0"),
)
"""Options of each server."""

_FILLING = (
    48 << 20
)  # bytes: more than the kernel buffers for two connections and the proxy between them


def announced_ports(ports: Sequence[int], behind_proxy: bool) -> list[int]:
    """Give the ports that servers announce: their own, or those of listeners.

    A flow learns the addresses of servers from Sentinels and nodes, not from its URL. Only servers
    that announce listeners can be put behind a slow network.
    """
    return free_ports(len(ports)) if behind_proxy else list(ports)


class ServerGroup(RedisDeployment):
    """Several servers, started by :meth:`start` and ended by :meth:`stop`.

    :ivar nodes: The servers that hold data.
    """

    nodes: list[ServerNode]

    def listeners(self, processes: int) -> list[Listener]:
        """Give a listener for each server, which all processes use."""
        return [Listener((HOST, node.port), node.announced) for node in self.nodes]

    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the URL of the group: its servers announce the listeners."""
        return self.url

    def stop(self) -> None:
        """End every server, as a crash would."""
        for node in self.nodes:
            node.kill()

    # -- roles --------------------------------------------------------------------------------

    @abstractmethod
    def primary_of(self, key: bytes) -> ServerNode:
        """Give the primary that holds a key."""

    def replicas_of(self, primary: ServerNode) -> list[ServerNode]:
        """Give the living replicas of a primary."""
        return [
            node
            for node in self.nodes
            if node.role == "slave" and node.info()["master_port"] == primary.announced
        ]

    def _at(self, port: object) -> ServerNode:
        return next(node for node in self.nodes if node.announced == int(str(port)))

    # -- failovers ----------------------------------------------------------------------------

    @abstractmethod
    def wait_failed_over(
        self, before: ServerNode, key: bytes, seconds: float = BOUND_SECONDS
    ) -> ServerNode:
        """Wait until another server than before is the primary of a key, and takes writes."""

    @abstractmethod
    def fail_over(self, primary: ServerNode) -> None:
        """Order a failover, as an operator does."""

    @abstractmethod
    def rejoin(self, node: ServerNode) -> None:
        """Start a server that was killed as a replica of its successor."""

    def lose_tail(self, key: bytes, meanwhile: Callable[[], object]) -> ServerNode:
        """Kill the primary of a key; a replica takes over without its last writes.

        :arg meanwhile: Is called while the replicas are held: its writes are lost.
        :returns: The server that was killed.
        """
        before = self.primary_of(key)
        replicas = self.replicas_of(before)
        for replica in replicas:
            replica.hold()
        try:
            # The kernel buffers bytes for a held replica, which would read them after all. So fill
            # its buffers before the writes that must be lost.
            before.client.set(b"{%b}filling" % hash_tag_of(key), bytes(_FILLING))
            meanwhile()
        finally:
            before.kill()
            for replica in replicas:
                replica.go_on()
        self.wait_failed_over(before, key)
        return before
