"""One Redis server, which faults can strike, and which starts again on its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
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
        """Its URL, past the proxy."""
        return f"redis://{self._node.address}/0"

    def listeners(self, processes: int) -> list[Listener]:
        """Give a listener for each process."""
        return [Listener((HOST, self._node.port)) for _ in range(processes)]

    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the URL of a process's listener."""
        return f"redis://{HOST}:{listeners[process].port}/0"

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it on its data.

        :arg options: More options of the server.
        :arg wait: Whether to wait until it takes commands.
        """
        self._node.start(*options, wait=wait)

    @contextmanager
    def connected(self) -> Iterator[redis.Redis]:
        """Connect to it past the proxy, to inject a fault."""
        client = redis.Redis(host=HOST, port=self._node.port, socket_timeout=10)
        try:
            yield client
        finally:
            client.close()

    # -- faults -------------------------------------------------------------------------------

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
        """Copy its data on disk, as of now."""
        copy = self._copies / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder, copy)

    def remembers(self, name: str) -> bool:
        """Tell whether there is a copy of this name."""
        return (self._copies / name).is_dir()

    def forget_since(self, name: str) -> None:
        """SIGKILL it, and start it on a copy: it has lost the writes since then."""
        self.kill()
        shutil.rmtree(self._folder)
        shutil.copytree(self._copies / name, self._folder)
        self.start()

    def dump(self) -> Path:
        """Take a dump (RDB) of its data, as of now.

        :returns: The file.
        """
        dump = self._folder / "dump.rdb"
        with self.connected() as client:
            wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "no fork")
            client.save()
        self._copies.mkdir(exist_ok=True)
        return dump.rename(self._copies / "older.rdb")

    def restore_dump(self, dump: Path) -> None:
        """SIGKILL it, and start it on a dump, as a person does who restores a backup."""
        self.kill()
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        dump.rename(self._folder / "dump.rdb")
        # With the append-only file on, a server does not look at its dump.
        self._node.start("--appendonly", "no")
        with self.connected() as client:
            client.config_set("appendonly", "yes")
            wait_until(_has_append_file(client), "it has an append-only file again")

    def refuse_writes(self) -> None:
        """Make its snapshots fail, so that it refuses writes with MISCONF."""
        # The server renames a finished snapshot to this name; onto a full folder it can't.
        (self._folder / "dump.rdb" / "in the way").mkdir(parents=True)
        with self.connected() as client:
            client.config_set("save", "3600 1000000")
            client.bgsave()
            wait_until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
                "a snapshot fails",
            )

    def take_writes(self) -> None:
        """Take writes again."""
        with self.connected() as client:
            client.config_set("save", "")
        shutil.rmtree(self._folder / "dump.rdb", ignore_errors=True)

    def load_fast(self) -> None:
        """Let it load the rest of its data as fast as it can, and wait for that."""
        with self.connected() as client:
            wait_until(lambda: client.config_set("key-load-delay", "0"), "it loads fast")
        self._node.wait_answers()

    def stop(self) -> None:
        """End it."""
        self._node.kill()


def _has_append_file(client: redis.Redis) -> Callable[[], bool]:
    def asked() -> bool:
        info = client.info("persistence")
        return bool(info["aof_enabled"] and not info["aof_rewrite_in_progress"])

    return asked
