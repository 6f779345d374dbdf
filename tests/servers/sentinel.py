"""A primary with replicas, and Sentinels that watch it."""

from __future__ import annotations

from pathlib import Path

from tests.ports import free_ports

from .node import ServerNode, wait_until

__all__ = ["SERVICE", "SentinelGroup"]

SERVICE = "home"
_DATA = (
    "--appendonly",
    "yes",
    "--appendfsync",
    "everysec",
    "--save",
    "",
    "--repl-diskless-sync-delay",
    "0",
)


class SentinelGroup:
    """Started by :meth:`start`; everything is gone after :meth:`end`.

    :arg binary: The server's program, which is a Sentinel's too.
    :arg folder: Of the group's own.
    :arg replicas: Of the one primary.
    :arg sentinels: How many; more than half of them must agree.
    :arg down_after: Milliseconds until a Sentinel calls a silent server down.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        replicas: int = 2,
        sentinels: int = 1,
        down_after: int = 1000,
    ) -> None:
        ports = free_ports(1 + replicas + sentinels)
        self._quorum = sentinels // 2 + 1
        self._down_after = down_after
        self.servers = [
            self._server(binary, folder / f"server-{n}", port, ports[0] if n else None)
            for n, port in enumerate(ports[: 1 + replicas])
        ]
        self.sentinels = [
            self._sentinel(binary, folder / f"sentinel-{n}", port)
            for n, port in enumerate(ports[1 + replicas :])
        ]

    @staticmethod
    def _server(binary: Path, folder: Path, port: int, primary: int | None) -> ServerNode:
        options: list[object] = ["--port", port, "--bind", "127.0.0.1", *_DATA]
        if primary is not None:
            options += ["--replicaof", "127.0.0.1", primary]
        return ServerNode(binary, folder, port, options)

    def _sentinel(self, binary: Path, folder: Path, port: int) -> ServerNode:
        folder.mkdir(parents=True)
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} {self._quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after}\n"
            f"sentinel failover-timeout {SERVICE} 4000\n"
        )
        return ServerNode(binary, folder, port, [settings, "--sentinel"])

    @property
    def url(self) -> str:
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def start(self) -> SentinelGroup:
        """Start all, and wait until a failover is possible."""
        for server in self.servers:
            server.start()
        self.wait_in_step()
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(self._knows_all, "every Sentinel knows all servers")
        return self

    def end(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.kill()

    def _knows_all(self) -> bool:
        return all(
            len(sentinel.client.sentinel_slaves(SERVICE)) == len(self.servers) - 1
            and len(sentinel.client.sentinel_sentinels(SERVICE)) == len(self.sentinels) - 1
            for sentinel in self.sentinels
        )

    @property
    def primary(self) -> ServerNode:
        """The server that the first Sentinel names."""
        host_and_port = self.sentinels[0].client.sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if server.port == int(host_and_port[1]))

    def wait_in_step(self) -> None:
        """Wait until all servers that live but one are replicas that follow."""

        def in_step() -> bool:
            living = [server for server in self.servers if server.alive]
            links = [server.info().get("master_link_status") for server in living]
            return links.count(None) == 1 and links.count("up") == len(living) - 1

        wait_until(in_step, "all replicas follow")

    def wait_failed_over(self, before: ServerNode, seconds: float = 30) -> ServerNode:
        """Wait until another server than before is the primary."""
        wait_until(
            lambda: self.primary is not before and self.primary.role == "master",
            "another primary",
            seconds,
        )
        return self.primary

    def fail_over(self) -> None:
        """Order a failover, as an operator does; one that is just ending is waited for."""
        sentinel = self.sentinels[0].client
        wait_until(lambda: sentinel.sentinel_failover(SERVICE), "the Sentinel obeys")
