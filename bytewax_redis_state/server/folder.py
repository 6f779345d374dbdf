"""The embedded server's folder: its files, its lock, and where its server listens.

==================  =============================================================
``lock``            flock of the keeper and its server
``server.json``     where the server listens; absent before it starts, and once it retires
``server.log``      what the server and its keeper said
``server.sock``     the socket, unless its path is too long for one
``appendonlydir/``  the data
==================  =============================================================

Invariant: the lock is free only when keeper and server are both gone, so that a folder never has
two servers. The server inherits the keeper's lock, and needs to know nothing of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError

__all__ = ["HELD", "EmbeddedFolder", "Listening"]

HELD = 75
"""Exit status of a keeper that found the lock taken: EX_TEMPFAIL."""

_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 107 on Linux and 103 on macOS
_LOG_LIMIT = 1_000_000  # bytes
_TEMP_PREFIX = "bytewax-redis-state-"


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and which processes it is made of.

    :arg socket: Absolute path.
    :arg server: Process ID of the server.
    :arg keeper: Process ID of its keeper.
    """

    socket: str
    server: int
    keeper: int

    @property
    def config(self) -> RedisConfig:
        """The settings to reach it."""
        return RedisConfig(url=f"unix://{quote(self.socket)}?db=0")


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT


@dataclass(frozen=True)
class EmbeddedFolder:
    """Read and write the folder of an embedded server.

    :arg path: Absolute.
    """

    path: Path

    @property
    def log(self) -> Path:
        """What the server and its keeper said."""
        return self.path / "server.log"

    @property
    def has_multipart_data(self) -> bool:
        """Whether a server of version 7 or newer wrote the data."""
        return (self.path / "appendonlydir").exists()

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @property
    def _published(self) -> Path:
        return self.path / "server.json"

    def prepare(self) -> None:
        """Make the folder, private and out of git's sight.

        :raises ConfigError: If it can't be made, or holds somebody else's files.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._lock.exists() and any(self.path.iterdir()) and not self._lock.exists():
                raise ConfigError(
                    f"{self.path} is not empty, and no folder of an embedded server",
                    "give a folder of its own",
                )
            self._lock.touch(mode=0o600)  # First: it marks the folder as ours.
            self.path.chmod(0o700)
            (self.path / ".gitignore").write_text("*\n")
            if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_suffix(".log.old"))
        except OSError as error:
            raise ConfigError(
                f"{self.path} can't hold an embedded server: {error.strerror}",
                "run where you may write, or give --redis URL",
            ) from None

    def take_lock(self) -> int | None:
        """Take the lock without waiting.

        :returns: A descriptor that holds it as long as any process has it open, or ``None``.
        """
        return self._try_lock(fcntl.LOCK_EX)

    def is_held(self) -> bool:
        """Tell whether a keeper or a server of this folder lives."""
        descriptor = self._try_lock(fcntl.LOCK_SH)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _try_lock(self, kind: int) -> int | None:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def make_socket_path(self) -> Path:
        """Choose where the server will listen.

        :returns: A path in the folder, or in a private folder of its own where that is too long.
        """
        socket = self.path / "server.sock"
        if _fits(socket):
            return socket
        # A temporary folder can have a long path, too.
        root = next((r for r in (tempfile.gettempdir(), "/tmp") if _fits(Path(r, "x" * 40))), None)
        return Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=root)) / "server.sock"

    def remove_socket(self, socket: Path) -> None:
        """Remove a socket, and the folder that was made for it alone."""
        if socket.parent.name.startswith(_TEMP_PREFIX) and socket.parent != self.path:
            shutil.rmtree(socket.parent, ignore_errors=True)
        else:
            socket.unlink(missing_ok=True)

    def publish(self, listening: Listening) -> None:
        """Tell others where the server listens."""
        draft = self.path / f"server.json.{os.getpid()}"
        draft.write_text(json.dumps(asdict(listening)))
        draft.replace(self._published)

    def withdraw(self) -> None:
        """Stop telling others where the server listens."""
        self._published.unlink(missing_ok=True)

    def listening(self) -> Listening | None:
        """Read where the server listens; it may have died since."""
        try:
            return Listening(**json.loads(self._published.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def last_words(self) -> str:
        """Read the last line of the log."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError:
            return "no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "empty log")
