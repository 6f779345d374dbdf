"""The keeper: the process that owns an embedded server, and ends it when nobody uses it.

    python -m bytewax_redis_state.server.keeper FOLDER SERVER_BINARY IDLE_SECONDS

1. Take the folder's lock, or exit with 75: another keeper has it.
2. Fork and let the first process exit with 0: whoever waited for it knows that the lock is ours.
3. Start the server with the lock's descriptor, and publish where it will listen.
4. Watch its clients. After the idle time without any: withdraw the address, look once more, and
   if still nobody came, shut the server down.
5. When the server has ended, for whatever reason, withdraw the address and exit.

Invariant: whoever sees the address published after having connected has been noticed, so the
server is not shut down under a client that has just found it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerError
from bytewax_redis_state.server.folder import HELD, EmbeddedFolder, Listening

_SOCKET_SECONDS = 10.0  # for the server to make its socket, which it does before it loads

if TYPE_CHECKING:
    from bytewax_redis_state.server.client import Client

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _end_with_keeper() -> None:
    # Runs in the child. Elsewhere than on Linux a server whose keeper was killed stays until it
    # is ended by hand; it is still found and used.
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start_server(
    folder: EmbeddedFolder, binary: str, socket: Path, lock: int
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
    return subprocess.Popen(
        [binary, *arguments], cwd=folder.path, pass_fds=(lock,), preexec_fn=_end_with_keeper
    )


class _Usage:
    """Tell how long a server has had no client but this one."""

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
            used = True  # Starting, loading or held up: not for us to end.
        if used:
            self._used_at = time.monotonic()
        return time.monotonic() - self._used_at

    def shut_down(self) -> None:
        """Let the server write its data out and end."""
        from bytewax_redis_state.server.translation import translated

        if self._client is not None:
            with translated(self._config.address):
                self._client.shutdown()

    def _is_used(self) -> bool:
        # Here, because redis-py takes longer to import than the server to start.
        from bytewax_redis_state.server.client import connect
        from bytewax_redis_state.server.translation import translated

        self._client = self._client or connect(self._config)
        with translated(self._config.address):
            info = self._client.info()
        # Whoever came and went between two looks counts as well.
        came = info["total_connections_received"] != self._connections
        self._connections = info["total_connections_received"]
        return came or bool(info["connected_clients"] > 1)


def _watch(folder: EmbeddedFolder, listening: Listening, idle: float) -> None:
    usage = _Usage(listening.config)
    socket = Path(listening.socket)
    deadline = time.monotonic() + _SOCKET_SECONDS
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    while True:
        time.sleep(min(1.0, idle / 4))
        if not socket.exists():
            # Nobody can reach it any more, and nobody could end it later.
            os.kill(listening.server, signal.SIGTERM)
            return
        if usage.idle_seconds() >= idle:
            _retire(folder, listening, usage, idle)


def _retire(folder: EmbeddedFolder, listening: Listening, usage: _Usage, idle: float) -> None:
    folder.withdraw()
    try:
        if usage.idle_seconds() >= idle:
            usage.shut_down()
            return
    except ServerError as error:
        print(f"keeper: the server can't be shut down: {error}", flush=True)
    folder.publish(listening)


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _keep(folder: EmbeddedFolder, binary: str, idle: float, lock: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    os.umask(0o077)
    os.chdir(folder.path)
    _clear_leftovers(folder)
    socket = folder.make_socket_path()
    server = _start_server(folder, binary, socket, lock)
    try:
        listening = Listening(str(socket), server.pid, os.getpid())
        folder.publish(listening)
        threading.Thread(target=_watch, args=(folder, listening, idle), daemon=True).start()
        server.wait()
    finally:
        server.terminate()
        server.wait()
        folder.withdraw()
        folder.remove_socket(socket)


def _clear_leftovers(folder: EmbeddedFolder) -> None:
    dead = folder.listening()
    folder.withdraw()
    if dead is not None:
        folder.remove_socket(Path(dead.socket))


def main() -> int:
    """Keep one server until nobody uses it.

    :returns: 0, or 75 where another keeper has the folder.
    """
    directory, binary, idle = sys.argv[1:]
    folder = EmbeddedFolder(Path(directory))
    lock = folder.take_lock()
    if lock is None:
        return HELD
    if os.fork():
        os._exit(0)
    _keep(folder, binary, float(idle), lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
