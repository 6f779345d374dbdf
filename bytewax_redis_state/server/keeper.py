"""The keeper: the process that owns an embedded server, and ends it when nobody uses it.

    python -m bytewax_redis_state.server.keeper DIRECTORY SERVER_BINARY IDLE_SECONDS

1. Take the lock of the directory. If another keeper has it, exit with 75.
2. Fork, and let the first process exit with 0: whoever waited for it knows that the lock is taken.
3. Start the server with the open lock, and write the record of where it will listen.
4. Watch its clients in a thread. After the idle time without any: delete the record, look once
   more, and shut the server down if still nobody has connected.
5. When the server has ended, for whatever reason, delete the record and the socket, and exit.

Invariant: where the record is still there after a client has connected, the keeper has seen that
client or will see it before it decides. So a server is not shut down under a client that has just
found it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerError
from bytewax_redis_state.server.embedded_directory import (
    EXIT_LOCKED,
    EmbeddedDirectory,
    ServerRecord,
)

if TYPE_CHECKING:
    from bytewax_redis_state.server.client import Client

__all__ = ["main"]

_SOCKET_SECONDS = 10.0  # for the server to make its socket, which it does before it loads
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_keeper() -> None:
    # Runs in the child. On other systems than Linux a server whose keeper was killed runs until
    # somebody ends it; starts still find it and use it.
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start_server(
    directory: EmbeddedDirectory, binary: str, socket: Path, lock: int
) -> subprocess.Popen[bytes]:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": ".",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return subprocess.Popen([binary, *arguments], pass_fds=(lock,), preexec_fn=_end_with_keeper)


class _Usage:
    """Tells how long a server has had no client but this one."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._client: Client | None = None
        self._connections = -1
        self._used_at = time.monotonic()

    def idle_seconds(self) -> float:
        """Look at the server's clients, and tell for how long there were none."""
        try:
            used = self._is_used()
        except ServerError:
            used = True  # It is starting or loading, or its machine is busy: no reason to end it.
        if used:
            self._used_at = time.monotonic()
        return time.monotonic() - self._used_at

    def shut_down(self) -> None:
        """Tell the server to write its data out and end."""
        from bytewax_redis_state.server.translation import translated

        if self._client is not None:
            with translated(self._config.address):
                self._client.shutdown()

    def _is_used(self) -> bool:
        # Imported here: redis-py takes longer to import than the server takes to start.
        from bytewax_redis_state.server.client import connect
        from bytewax_redis_state.server.translation import translated

        self._client = self._client or connect(self._config)
        with translated(self._config.address):
            info = self._client.info()
        # A client that connected and left between two looks counts as well.
        came = info["total_connections_received"] != self._connections
        self._connections = info["total_connections_received"]
        return came or bool(info["connected_clients"] > 1)


def _watch(directory: EmbeddedDirectory, record: ServerRecord, idle: float) -> None:
    usage = _Usage(record.config)
    socket = Path(record.socket)
    deadline = time.monotonic() + _SOCKET_SECONDS
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    while True:
        time.sleep(min(1.0, idle / 4))
        if not socket.exists():
            # Nobody can connect to it, and no later keeper could end it.
            return
        if usage.idle_seconds() >= idle:
            _retire(directory, record, usage, idle)


def _watch_or_end(
    directory: EmbeddedDirectory,
    record: ServerRecord,
    server: subprocess.Popen[bytes],
    idle: float,
) -> None:
    try:
        _watch(directory, record, idle)
    except Exception:  # noqa: BLE001 - whatever it was, the log has it and the server is ended
        print(f"keeper: the watch failed: {traceback.format_exc()}", flush=True)
    finally:
        # Also where the watch has failed: a server whose clients nobody watches would run for ever,
        # and without its record no start would find it.
        server.terminate()


def _retire(directory: EmbeddedDirectory, record: ServerRecord, usage: _Usage, idle: float) -> None:
    directory.withdraw()
    try:
        if usage.idle_seconds() >= idle:
            usage.shut_down()
            return
    except ServerError as error:
        print(f"keeper: the server can't be shut down: {error}", flush=True)
    directory.publish(record)


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _keep(directory: EmbeddedDirectory, binary: str, idle: float, lock: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    os.umask(0o077)
    os.chdir(directory.path)
    # Of the directory that we are in now, whatever its path leads to by and by.
    EmbeddedDirectory(Path()).require_own()
    _clear_leftovers(directory)
    socket = directory.make_socket_path()
    server = _start_server(directory, binary, socket, lock)
    try:
        record = ServerRecord(str(socket), server.pid, os.getpid())
        directory.publish(record)
        arguments = (directory, record, server, idle)
        watch = threading.Thread(target=_watch_or_end, args=arguments, name="watch", daemon=True)
        watch.start()
        server.wait()
    finally:
        server.terminate()
        # Without a limit: the lock must stay taken until the server has written its data out.
        server.wait()
        directory.remove_socket(socket)
        directory.withdraw()


def _clear_leftovers(directory: EmbeddedDirectory) -> None:
    dead = directory.read_record()
    directory.withdraw()
    if dead is not None:
        directory.remove_socket(Path(dead.socket))


def main() -> int:
    """Keep one server until nobody uses it.

    :returns: 0, or 75 where another keeper has the directory.
    """
    path, binary, idle = sys.argv[1:]
    directory = EmbeddedDirectory(Path(path))
    lock = directory.take_lock()
    if lock is None:
        return EXIT_LOCKED
    if os.fork():
        os._exit(0)
    _keep(directory, binary, float(idle), lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
