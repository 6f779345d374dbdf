"""A primary with replicas, and Sentinels that watch it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bytewax_redis_state.chaos.network.ports import free_ports
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode, wait_until
from bytewax_redis_state.chaos.servers.server_group import PERSISTENT, ServerGroup, announced_ports
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

__all__ = ["SERVICE", "SentinelGroup"]

SERVICE = "home"


class SentinelGroup(ServerGroup):
    """A group that Sentinels watch.

    :arg binary: The server's program, which is a Sentinel's too.
    :arg folder: Of the group's own.
    :arg replicas: Of the one primary.
    :arg sentinels: How many; more than half of them must agree.
    :arg down_after: Milliseconds until a Sentinel calls a silent server down.
    :arg behind_proxy: Each server announces a listener; Sentinels use it, too.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        replicas: int = 2,
        sentinels: int = 1,
        down_after: int = 1000,
        behind_proxy: bool = False,
    ) -> None:
        ports = free_ports(1 + replicas + sentinels)
        own = ports[: 1 + replicas]
        told = announced_ports(own, behind_proxy)
        self._quorum = sentinels // 2 + 1
        self._down_after = down_after
        self.nodes = [
            _server(binary, folder / f"server-{n}", *pair)
            for n, pair in enumerate(zip(own, told, strict=True))
        ]
        self.sentinels = [
            self._sentinel(binary, folder / f"sentinel-{n}", port)
            for n, port in enumerate(ports[1 + replicas :])
        ]

    def _sentinel(self, binary: Path, folder: Path, port: int) -> ServerNode:
        folder.mkdir(parents=True)
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind {HOST}\n"
            f"sentinel monitor {SERVICE} {HOST} {self.nodes[0].announced} {self._quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after}\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )
        return ServerNode(binary, folder, port, [settings, "--sentinel"])

    @property
    def url(self) -> str:
        """The URL with the Sentinels."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def start(self) -> SentinelGroup:
        """Start all, and wait until a failover is possible."""
        first, *others = self.nodes
        first.start()
        for replica in others:
            replica.start(*_following(first))
        wait_until(lambda: all(replica.follows for replica in others), "all replicas follow")
        for sentinel in self.sentinels:
            sentinel.start()
        self.wait_recovered()
        return self

    def stop(self) -> None:
        """End every server and Sentinel, as a crash would."""
        for sentinel in self.sentinels:
            sentinel.kill()
        super().stop()

    def wait_recovered(self) -> None:
        """Wait until all living servers but the primary follow it, and every Sentinel knows."""
        wait_until(self._is_wait_recoveredd, "all replicas follow, and every Sentinel knows")

    def _is_wait_recoveredd(self) -> bool:
        replicas = [node for node in self.nodes if node.alive and node is not self.primary]
        return (
            self.primary.role == "master"
            and all(node.follows for node in replicas)
            and all(self._knows(sentinel, len(replicas)) for sentinel in self.sentinels)
        )

    def _knows(self, sentinel: ServerNode, replicas: int) -> bool:
        seen = map(_can_take_over, sentinel.client.sentinel_slaves(SERVICE))
        others = sentinel.client.sentinel_sentinels(SERVICE)
        return sum(seen) == replicas and len(others) == len(self.sentinels) - 1

    @property
    def primary(self) -> ServerNode:
        """The server that the first Sentinel names."""
        return self._at(self.sentinels[0].client.sentinel_get_master_addr_by_name(SERVICE)[1])

    def primary_of(self, key: bytes) -> ServerNode:
        """Give the primary, which holds every key."""
        return self.primary

    def wait_failed_over(
        self, before: ServerNode, key: bytes = b"", seconds: float = BOUND_SECONDS
    ) -> ServerNode:
        """Wait until another server than before is the primary."""
        wait_until(
            lambda: self.primary is not before and self.primary.role == "master",
            "another primary",
            seconds,
        )
        return self.primary

    def fail_over(self, primary: ServerNode) -> None:
        """Order a failover, after the end of one that is under way."""
        sentinel = self.sentinels[0].client
        wait_until(lambda: sentinel.sentinel_failover(SERVICE), "the Sentinel obeys")

    def rejoin(self, node: ServerNode) -> None:
        """Start a server that was killed as a replica of its successor.

        A Sentinel would do the same, but ten seconds later.
        """
        node.start(*_following(self.primary))


def _server(binary: Path, folder: Path, port: int, announced: int) -> ServerNode:
    options = ["--port", port, "--bind", HOST, *PERSISTENT]
    if announced != port:
        options += ["--replica-announce-ip", HOST, "--replica-announce-port", announced]
    return ServerNode(binary, folder, port, options, announced)


def _following(primary: ServerNode) -> tuple[object, ...]:
    return ("--replicaof", HOST, primary.announced)


def _can_take_over(seen: dict[str, Any]) -> bool:
    away = seen["is_sdown"] or seen["is_odown"] or seen["is_disconnected"]
    return not away and seen.get("master-link-status") == "ok"
