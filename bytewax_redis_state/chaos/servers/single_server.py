"""One Redis server: started, struck and started again on its data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from bytewax_redis_state.chaos.network.ports import free_ports
from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode, wait_until
from bytewax_redis_state.server.binary import find_server_binary

__all__ = ["SingleServer"]

_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec"),
    *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--save", ""),
)


class SingleServer(RedisDeployment):
    """One Redis process, with the append-only file on.

    :arg folder: For its data; made here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copies = folder.with_name(f"{folder.name}-copies")
        (port,) = free_ports(1)
        place = ("--bind", HOST, "--port", port, "--dir", folder)
        self._node = ServerNode(find_server_binary(), folder, port, [*place, *_OPTIONS])

    @property
    def url(self) -> str:
        """Where it is, without a listener in between."""
        return f"redis://{self._node.address}/0"

    def listeners(self, processes: int) -> list[Listener]:
        """Give each process a listener of its own."""
        return [Listener((HOST, self._node.port)) for _ in range(processes)]

    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the URL of a process's listener."""
        return f"redis://{HOST}:{listeners[process].port}/0"

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it on what data there is.

        :arg options: Beside its own.
        :arg wait: Until it takes commands.
        """
        self._node.start(*options, wait=wait)

    @contextmanager
    def connected(self) -> Iterator[redis.Redis]:
        """Connect to it, past the proxy; for blows, also while it is ill."""
        client = redis.Redis(host=HOST, port=self._node.port, socket_timeout=10)
        try:
            yield client
        finally:
            client.close()

    # -- blows --------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL it."""
        self._node.kill()

    def pause(self) -> None:
        """SIGSTOP it."""
        self._node.hold()

    def go_on(self) -> None:
        """SIGCONT it."""
        self._node.go_on()

    def remember(self, name: str) -> None:
        """Keep a copy of its data as it is on disk now."""
        copy = self._copies / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder, copy)

    def remembers(self, name: str) -> bool:
        """Tell whether there is a copy of this name."""
        return (self._copies / name).is_dir()

    def forget_since(self, name: str) -> None:
        """SIGKILL it, and start it on a copy: what it acknowledged since then is lost."""
        self.kill()
        shutil.rmtree(self._folder)
        shutil.copytree(self._copies / name, self._folder)
        self.start()

    def refuse_writes(self) -> None:
        """Let its snapshots fail, so that it refuses writes with MISCONF."""
        # Nothing can be renamed onto a folder that is not empty.
        (self._folder / "dump.rdb" / "in the way").mkdir(parents=True)
        with self.connected() as client:
            client.config_set("save", "3600 1000000")
            client.bgsave()
            wait_until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
                "a snapshot fails",
                20,
            )

    def take_writes(self) -> None:
        """Take writes again."""
        with self.connected() as client:
            client.config_set("save", "")
        shutil.rmtree(self._folder / "dump.rdb", ignore_errors=True)

    def load_fast(self) -> None:
        """Let it load what is left as fast as it can, and wait until it has."""
        with self.connected() as client:
            wait_until(lambda: client.config_set("key-load-delay", "0"), "it loads fast")
        self._node.wait_answers()

    def stop(self) -> None:
        """End it."""
        self._node.kill()
