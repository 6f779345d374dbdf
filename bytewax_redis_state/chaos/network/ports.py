"""Loopback ports that no other test, trial or server takes: not even while their server is down.

A process reserves whole blocks of ports, each by a lock on a file, and gives the port that it gave
longest ago: a server that was killed can be started again on its port. Invariants: the ports lie
below those that the kernel gives to clients, and the port ``SHADOW`` above a port is given to
nobody.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from threading import Lock

from bytewax_redis_state.config.ownership import folder_flaw
from bytewax_redis_state.errors import ConfigError

__all__ = ["SHADOW", "free_addresses", "free_ports"]

SHADOW = 10_000
"""The distance from a port to its second one, for a server that needs two."""

_LOWEST, _HIGHEST = 10_000, 20_000
_BLOCK = 100  # ports
_MOST = 6  # blocks of a process, of a hundred in all


class _Ports:
    """The ports that one process has reserved."""

    def __init__(self) -> None:
        self._ports: deque[int] = deque()
        self._new = 0
        self._locks: list[int] = []
        starts = range(_LOWEST, _HIGHEST, _BLOCK)
        self._untried = random.SystemRandom().sample(starts, len(starts))

    def take(self, count: int) -> list[int]:
        """Give ports at which nobody listens, nor ``SHADOW`` above them.

        :raises TimeoutError: If there are too few.
        """
        while self._new < count and len(self._locks) < _MOST and self._add_block():
            pass
        found: list[int] = []
        for _ in range(len(self._ports)):
            port = self._ports.popleft()
            self._ports.append(port)
            self._new = max(0, self._new - 1)
            if _is_free(port) and _is_free(port + SHADOW):
                found.append(port)
            if len(found) == count:
                return sorted(found)
        raise TimeoutError(
            f"fewer than {count} ports are free from {_LOWEST} to {_HIGHEST - 1}: end processes "
            "that listen there, or that have reserved ports"
        )

    def _add_block(self) -> bool:
        folder = Path(tempfile.gettempdir(), f"bytewax-redis-state-ports-{os.getuid()}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        flaw = "is a symbolic link" if folder.is_symlink() else folder_flaw(folder, private=True)
        if flaw is not None:
            raise ConfigError(
                f"the folder of locks of ports {str(folder)!r} {flaw}",
                "delete it, or set TMPDIR to a folder of your own",
            )
        while self._untried:
            start = self._untried.pop()
            lock = os.open(folder / str(start), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._locks.append(lock)  # held for as long as the process lives
            self._ports.extendleft(range(start, start + _BLOCK))
            self._new += _BLOCK
            return True
        return False


_lock = Lock()
_by_process: dict[int, _Ports] = {}  # a forked process must not share its parent's ports


def free_ports(count: int) -> list[int]:
    """Give ports at which nobody listens, and that nobody else is given.

    :raises TimeoutError: If there are too few.
    """
    with _lock:
        return _by_process.setdefault(os.getpid(), _Ports()).take(count)


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def free_addresses(count: int) -> list[str]:
    """Give addresses for the processes of a cluster."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]
