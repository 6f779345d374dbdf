"""One server process, which can be killed, held up and started again on its data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

__all__ = ["ServerNode", "wait_until"]

SECONDS = 30.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait for a condition and hand back what it gave; a server that is away is no answer."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(redis.RedisError):
            if value := condition():
                return value
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(0.01)


class ServerNode:
    """A server on a loopback port.

    :arg binary: The program.
    :arg folder: Of its own, for its data and its log.
    :arg port: Where it listens.
    :arg arguments: What follows the program's name; by default options that keep every write.
    """

    def __init__(
        self, binary: Path, folder: Path, port: int, arguments: Sequence[object] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.folder = folder
        self._command = [str(part) for part in (binary, *arguments)]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(
            host="127.0.0.1", port=port, socket_timeout=10, retry=None, protocol=2
        )

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, also again, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, f"{self._command[0]} answers at {self.address}")

    def _answers(self) -> bool:
        assert self.alive, f"the server ended: {self.log.read_text()[-500:]}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(timeout=20)
        self.client.connection_pool.disconnect()

    def hold(self) -> None:
        """Let it do nothing, as on a machine that has lost its network."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after :meth:`hold`."""
        os.kill(self.pid, signal.SIGCONT)

    def info(self, section: str = "replication") -> dict[str, Any]:
        found: dict[str, Any] = self.client.info(section)
        return found

    @property
    def role(self) -> str:
        """``master`` or ``slave``; empty where it does not answer."""
        if not self.alive:
            return ""
        try:
            return str(self.info()["role"])
        except redis.RedisError:
            return ""
