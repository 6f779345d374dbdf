"""One server process, which can be killed, held up and started again on its data."""

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
    """Wait for a condition and hand back what it gave; a server that is away is no answer.

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
    :arg arguments: What follows the program's name.
    :arg announced: The port that others are told, where a listener is in front of it.
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
        # Any: what redis-py says of its answers is of another protocol's.
        self.client: Any = redis.Redis(
            host=HOST, port=port, socket_timeout=10, retry=Retry(NoBackoff(), 0), protocol=2
        )

    @property
    def address(self) -> str:
        """Where others are told that it is."""
        return f"{HOST}:{self.announced}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, or is held up."""
        return self._process is not None and self._process.poll() is None

    def start(self, *options: object, wait: bool = True) -> None:
        """Start it, also again.

        :arg options: Beside its own.
        :arg wait: Until it answers.
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
        # A PING in bare bytes: a server that wants a password has come up as well.
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(_ANSWERS)
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        self._send(number)
        if self._process is not None:
            self._process.wait(timeout=20)
        self.client.connection_pool.disconnect()

    def hold(self) -> None:
        """Let it do nothing, as on a machine that has lost its network."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after :meth:`hold`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def info(self, section: str = "replication") -> dict[str, Any]:
        """Ask what it says of itself."""
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

    @property
    def follows(self) -> bool:
        """Whether it is a replica whose link to its primary is up."""
        return self.alive and self.info().get("master_link_status") == "up"
