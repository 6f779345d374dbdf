"""Servers in a group, of which one takes over from another.

Every server may have a listener before it: clients and replicas come through it, as the group tells
them, Sentinels and the bus of a cluster too where they go by what is announced.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from bytewax_redis_state.chaos.network.ports import free_ports
from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode
from bytewax_redis_state.keys import hash_tag_of

__all__ = ["PERSISTENT", "ServerGroup", "announced_ports"]

PERSISTENT = (
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
    *("--repl-diskless-sync-delay", "0"),
)
"""Options of each server."""

_FILLING = 48 << 20  # bytes: more than the kernel keeps of two connections, with a listener between


def announced_ports(ports: Sequence[int], behind_proxy: bool) -> list[int]:
    """Give the ports that servers tell of: their own, or of listeners before them."""
    return free_ports(len(ports)) if behind_proxy else list(ports)


class ServerGroup(RedisDeployment):
    """Started by :meth:`start`; everything is gone after :meth:`stop`.

    :ivar nodes: The servers that hold data.
    """

    nodes: list[ServerNode]

    def listeners(self, processes: int) -> list[Listener]:
        """Give each server a listener, which all processes come through."""
        return [Listener((HOST, node.port), node.announced) for node in self.nodes]

    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the one URL: the group tells of its listeners itself."""
        return self.url

    def stop(self) -> None:
        """End every server, as a crash would."""
        for node in self.nodes:
            node.kill()

    # -- who is who ---------------------------------------------------------------------------

    @abstractmethod
    def primary_of(self, key: bytes) -> ServerNode:
        """Tell which server has a key."""

    def replicas_of(self, primary: ServerNode) -> list[ServerNode]:
        """Give the living replicas of a primary."""
        return [
            node
            for node in self.nodes
            if node.role == "slave" and node.info()["master_port"] == primary.announced
        ]

    def _at(self, port: object) -> ServerNode:
        return next(node for node in self.nodes if node.announced == int(str(port)))

    # -- what happens to it -------------------------------------------------------------------

    @abstractmethod
    def wait_failed_over(self, before: ServerNode, key: bytes, seconds: float = 40) -> ServerNode:
        """Wait until another server than before has a key, and takes writes."""

    @abstractmethod
    def fail_over(self, primary: ServerNode) -> None:
        """Order a failover, as an operator does."""

    @abstractmethod
    def rejoin(self, node: ServerNode) -> None:
        """Start a server that was killed, as a replica of the one that took over."""

    def lose_tail(self, key: bytes, meanwhile: Callable[[], object]) -> ServerNode:
        """Kill the server that has a key; a replica takes over without what happened meanwhile.

        :returns: The server that was killed.
        """
        before = self.primary_of(key)
        replicas = self.replicas_of(before)
        for replica in replicas:
            replica.hold()
        try:
            # The kernel would keep what is sent to a replica, and it would read it later.
            before.client.set(b"{%b}filling" % hash_tag_of(key), bytes(_FILLING))
            meanwhile()
        finally:
            before.kill()
            for replica in replicas:
                replica.go_on()
        self.wait_failed_over(before, key)
        return before
