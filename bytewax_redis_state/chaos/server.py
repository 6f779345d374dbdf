"""The Redis server of a trial: started, struck and started again on its data.

A trial asks its server for a client and for a few blows; one that is more than a single process,
as a master with replicas is, has the same methods and adds its own kind of blow.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import redis

from bytewax_redis_state.chaos.member import wait_until
from bytewax_redis_state.chaos.ports import free_ports
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.binary import find_server_binary
from bytewax_redis_state.server.client import Client, connect

__all__ = ["Server"]

_PATIENCE = timedelta(seconds=30)
_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec"),
    *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--save", ""),
)


class Server:
    """One Redis process, with the append-only file on.

    :arg folder: For its data; made here.
    """

    def __init__(self, folder: Path) -> None:
        self._binary = find_server_binary()
        self._folder = folder
        self._copies = folder.with_name(f"{folder.name}-copies")
        self.host, self.port = "127.0.0.1", free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is, without a proxy in between."""
        return f"redis://{self.host}:{self.port}/0"

    def start(self, *options: str, wait: bool = True) -> None:
        """Start it on what data there is.

        :arg options: Beside its own.
        :arg wait: Until it takes commands.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        place = ["--bind", self.host, "--port", str(self.port), "--dir", str(self._folder)]
        with (self._folder.with_suffix(".log")).open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), *place, *_OPTIONS, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            wait_until(self._answers, f"the server at {self.url} answers", 30)

    def _answers(self) -> bool:
        try:
            with self.connected() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    @contextmanager
    def connected(self) -> Iterator[redis.Redis]:
        """Connect to it, past the proxy; for blows, also while it is ill."""
        client = redis.Redis(host=self.host, port=self.port, socket_timeout=10)
        try:
            yield client
        finally:
            client.close()

    def client(self) -> Client:
        """Connect to it, past the proxy; for reading what it holds."""
        return connect(RedisConfig(url=self.url).patient(_PATIENCE))

    # -- blows --------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL it."""
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP it."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT it."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

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
            wait_until(lambda: self._config_set(client, "key-load-delay", "0"), "it loads fast")
        wait_until(self._answers, f"the server at {self.url} answers", 30)

    def _config_set(self, client: redis.Redis, name: str, value: str) -> bool:
        try:
            return bool(client.config_set(name, value))
        except (redis.RedisError, OSError):
            return False

    def stop(self) -> None:
        """End it."""
        self.go_on()
        self.kill()
