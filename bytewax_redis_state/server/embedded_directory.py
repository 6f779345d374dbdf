"""The directory of an embedded server: its files, its lock, and the record of its server.

==================  ==================================================================
``lock``            flock, held by the keeper and its server
``server.json``     where the server listens; there from its start until it is ended
``server.log``      output of the server and its keeper
``server.sock``     the socket, unless its path is too long for one
``….sock.path``     where the socket is instead
``appendonlydir/``  the data
==================  ==================================================================

Invariant: the lock is free only when keeper and server are both gone, so a directory never has
two servers. The server inherits the keeper's lock as an open file, and needs to know nothing of it.
Nothing in a directory is trusted that another user made, or could have changed: values of a flow
may be pickles.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.ownership import folder_flaw
from bytewax_redis_state.errors import ConfigError

__all__ = ["EXIT_LOCKED", "EmbeddedDirectory", "ServerRecord"]

EXIT_LOCKED = 75
"""Exit code of a keeper that found the lock taken: EX_TEMPFAIL."""

_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 107 on Linux and 103 on macOS
_PEER_SECONDS = 5.0
_LOG_LIMIT = 1_000_000  # bytes
_TEMP_PREFIX = "bytewax-redis-state-"


@dataclass(frozen=True)
class ServerRecord:
    """Where a server listens, and the IDs of its processes: the content of ``server.json``.

    :arg socket: Absolute path of its unix socket.
    :arg server: Process ID of the server.
    :arg keeper: Process ID of its keeper.
    """

    socket: str
    server: int
    keeper: int

    @property
    def config(self) -> RedisConfig:
        """The settings to connect to it."""
        return RedisConfig(url=f"unix://{quote(self.socket)}?db=0")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT


@dataclass(frozen=True)
class EmbeddedDirectory:
    """Read and write the directory of an embedded server.

    :arg path: Absolute.
    """

    path: Path

    @property
    def log(self) -> Path:
        """Output of the server and its keeper."""
        return self.path / "server.log"

    @property
    def has_multipart_data(self) -> bool:
        """Whether a server of version 7 or newer wrote the data."""
        return (self.path / "appendonlydir").exists()

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @property
    def _socket_path(self) -> Path:
        return self.path / "server.sock.path"

    @property
    def _record(self) -> Path:
        return self.path / "server.json"

    def require_own(self) -> None:
        """Refuse a directory that another user made or may write to; one that is missing is none.

        :raises ConfigError: If there is one that is not ours alone.
        """
        try:
            flaw = folder_flaw(self.path, private=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            flaw = f"can't be looked at: {error.strerror}"
        if flaw is not None:
            raise ConfigError(
                f"the embedded server's directory {self.path} {flaw}",
                "run in a directory that only you may write to, or give --redis URL; if you trust "
                f"all that it holds: chmod 700 {self.path}",
            )

    def require_own_server(self, record: ServerRecord) -> None:
        """Refuse a server of another user on the socket of a record.

        :raises ConfigError: If the socket, or the process behind it, is another user's.
        :raises OSError: If nobody answers there.
        """
        path = Path(record.socket)
        flaw = folder_flaw(path.parent, private=True)
        if flaw is None and hasattr(socket, "SO_PEERCRED"):  # Linux
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(_PEER_SECONDS)
                peer.connect(record.socket)
                size = struct.calcsize("3i")
                found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            _, user, _ = struct.unpack("3i", found)
            if user != os.geteuid():
                flaw = f"is answered by a process of the user {user}"
        if flaw is not None:
            raise ConfigError(
                f"the socket {path} of the embedded server {flaw}",
                f"end that server, delete {self._record}, and start again",
            )

    def prepare(self) -> None:
        """Make the directory, readable by its owner only and ignored by git.

        :raises ConfigError: If it can't be made, or holds files of another program.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Looked for twice: another start may have made it while we listed the directory.
            if not self._lock.exists() and any(self.path.iterdir()) and not self._lock.exists():
                raise ConfigError(
                    f"{self.path} holds files, but none of an embedded server",
                    "choose a directory that is empty or does not exist yet",
                )
            self.require_own()  # again: another user may have made it meanwhile
            self._lock.touch(mode=0o600)  # First: it marks the directory as ours.
            self.path.chmod(0o700)
            (self.path / ".gitignore").write_text("*\n")
            if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
                self.log.replace(self.log.with_suffix(".log.old"))
        except OSError as error:
            raise ConfigError(
                f"the embedded server's directory {self.path} can't be made: {error.strerror}",
                "run in a directory that you may write to, or give --redis URL",
            ) from None

    def take_lock(self) -> int | None:
        """Take the lock without waiting.

        :returns: A descriptor that holds it as long as any process has it open, or ``None``.
        """
        return self._try_lock(fcntl.LOCK_EX)

    def is_held(self) -> bool:
        """Tell whether a keeper or a server of this directory lives."""
        descriptor = self._try_lock(fcntl.LOCK_SH)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def _try_lock(self, kind: int) -> int | None:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def make_socket_path(self) -> Path:
        """Choose where the server will listen.

        :returns: A path in this directory; where that is too long for a socket, a path in a new
            temporary directory.
        """
        path = self.path / "server.sock"
        if _fits(path):
            return path
        known = self._known_socket()
        if known is not None:
            return known
        # The path of the temporary directory can be long, too.
        root = next((r for r in (tempfile.gettempdir(), "/tmp") if _fits(Path(r, "x" * 40))), None)
        path = Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=root)) / "server.sock"
        self._socket_path.write_text(str(path))
        return path

    def _known_socket(self) -> Path | None:
        """Give the path of the servers before: their clients connect there again."""
        try:
            path = Path(self._socket_path.read_text())
            if not path.parent.name.startswith(_TEMP_PREFIX):
                return None
            with suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)
            return path if folder_flaw(path.parent, private=True) is None else None
        except (OSError, ValueError):
            return None

    def remove_socket(self, path: Path) -> None:
        """Remove a socket, and the temporary directory that was made for it."""
        if path.parent.name.startswith(_TEMP_PREFIX) and path.parent != self.path:
            shutil.rmtree(path.parent, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def publish(self, record: ServerRecord) -> None:
        """Write the record, so that others find the server."""
        draft = self.path / f"server.json.{os.getpid()}"
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(self._record)

    def withdraw(self) -> None:
        """Delete the record, so that nobody finds the server."""
        self._record.unlink(missing_ok=True)

    def read_record(self) -> ServerRecord | None:
        """Read where the server listens, ``None`` without a record; it may have died since."""
        try:
            return ServerRecord(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def last_log_line(self) -> str:
        """Read the last line of the log."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError:
            return "it has no log"
        return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
