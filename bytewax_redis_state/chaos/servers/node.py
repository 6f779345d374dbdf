"""One server process, which can be killed, stopped and started again on its data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bytewax_redis_state.chaos import waiting

__all__ = ["HOST", "ServerNode", "wait_until"]

HOST = "127.0.0.1"
_ANSWERS = (b"+PONG", b"-NOAUTH", b"-NOPERM")


def wait_until(
    condition: Callable[[], Any], awaited: str, seconds: float = waiting.BOUND_SECONDS
) -> Any:
    """Wait for a condition that asks a server; while the server is down, it does not hold.

    :raises TimeoutError: If it does not hold in time.
    """

    def asked() -> Any:
        with suppress(redis.RedisError):
            return condition()
        return None

    return waiting.wait_until(asked, awaited, seconds)


class ServerNode:
    """A server on a loopback port.

    :arg binary: The program.
    :arg folder: Of its own, for its data and its log; made here.
    :arg port: Where it listens.
    :arg arguments: Of the program.
    :arg announced: The port that it announces, where that is a listener of a proxy.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        port: int,
        arguments: Sequence[object] = (),
        announced: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self.announced = announced or port
        self.folder = folder
        self._command = [str(part) for part in (binary, *arguments)]
        self._process: subprocess.Popen[bytes] | None = None
        # Any: redis-py types the answers of the newer protocol only.
        self.client: Any = redis.Redis(
            host=HOST, port=port, socket_timeout=60, retry=Retry(NoBackoff(), 0), protocol=2
        )

    @property
    def address(self) -> str:
        """The address that it announces."""
        return f"{HOST}:{self.announced}"

    @property
    def log(self) -> Path:
        """File with its output."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def pid(self) -> int:
        """Process ID."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its process lives, also stopped."""
        return self._process is not None and self._process.poll() is None

    def start(self, *options: object, wait: bool = True) -> None:
        """Start it, or start it again.

        :arg options: More options of the program.
        :arg wait: Whether to wait until it answers.
        :raises TimeoutError: If it does not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *map(str, options)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_answers()

    def wait_answers(self) -> None:
        """Wait until it takes commands.

        :raises TimeoutError: If it does not, or has ended.
        """
        wait_until(self._answers, f"{self._command[0]} answers at {HOST}:{self.port}")

    def _answers(self) -> bool:
        if not self.alive:
            raise TimeoutError(f"{self._command[0]} has ended: {self.log.read_text()[-500:]}")
        # A PING in bare bytes: a server that asks for a password is up, too.
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(_ANSWERS)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL it."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        self._send(number)
        if self._process is not None:
            self._process.wait(timeout=waiting.BOUND_SECONDS)
        self.client.connection_pool.disconnect()

    def hold(self) -> None:
        """SIGSTOP it: to others it looks like a machine that has lost its network."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT it after :meth:`hold`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def info(self, section: str = "replication") -> dict[str, Any]:
        """Ask for a section of INFO."""
        found: dict[str, Any] = self.client.info(section)
        return found

    @property
    def role(self) -> str:
        """``master`` or ``slave``; empty if it does not answer."""
        if not self.alive:
            return ""
        try:
            return str(self.info()["role"])
        except redis.RedisError:
            return ""

    @property
    def follows(self) -> bool:
        """Whether it is a replica whose link to its primary is up."""
        return self.alive and self.info().get("master_link_status") == "up"
