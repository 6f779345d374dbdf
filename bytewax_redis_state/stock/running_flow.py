"""A flow that runs on a recovery directory: recognised by the lock that SQLite holds for it.

Invariant: the lock is only asked for, never taken, not even for a moment. A flow that starts at
that moment would otherwise meet a lock and end.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from pathlib import Path

from bytewax_redis_state.errors import StockStoreError, StockStoreInUseError

__all__ = ["in_use", "require_unused"]

# Where SQLite locks a file: a connection in WAL mode holds a shared lock here while it is open.
_LOCKED_FROM, _LOCKED_BYTES = 0x40000002, 510


def in_use(directory: Path, reason: str) -> StockStoreInUseError:
    """Make the error for a recovery directory that a flow runs on.

    :arg reason: How that was noticed.
    """
    return StockStoreInUseError(
        f"a flow is running on {directory}: {reason}", "stop the flow first"
    )


def require_unused(file: Path) -> None:
    """Refuse a partition's file that a process holds open.

    :arg file: The SQLite file.
    :raises StockStoreInUseError: If a process holds it open.
    :raises StockStoreError: If it can't be read.
    """
    try:
        with file.open("rb") as opened:
            process = _lock_holder(opened.fileno())
    except OSError as error:
        raise StockStoreError(
            f"{file} can't be read: {error}", "check who owns it, and whether it is a file"
        ) from error
    if process is not None:
        raise in_use(file.parent, f"process {process} holds {file.name} open")


def _lock_holder(descriptor: int) -> int | None:
    """Ask which process holds SQLite's lock on an open file; ``None`` for no process."""
    try:
        if sys.platform == "darwin":
            lock = struct.pack("qqihh", _LOCKED_FROM, _LOCKED_BYTES, 0, fcntl.F_WRLCK, os.SEEK_SET)
            answer = struct.unpack("qqihh", fcntl.fcntl(descriptor, fcntl.F_GETLK, lock))
            process, kind = answer[2], answer[3]
        else:
            lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_FROM, _LOCKED_BYTES, 0)
            answer = struct.unpack("hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, lock))
            process, kind = answer[4], answer[0]
    except OSError:
        # A file system without locks. A flow that runs is noticed later, by files that change
        # while they are read.
        return None
    return None if kind == fcntl.F_UNLCK else process
