"""ParentProcess: the dataflow's process, as its replicator sees it.

Invariant: a dataflow that has ended stays ended, and whoever waits learns of its end at once.
"""

from __future__ import annotations

import os
import select
import sys
import threading

from bytewax_redis_state.recovery.watched_thread import WatchedThread

__all__ = ["END", "ParentProcess"]

END = b"end\n"
"""The line by which the dataflow tells its replicator that it has ended."""

_READ_BYTES = 65536
_LOOK_SECONDS = 0.2


class ParentProcess:
    """The dataflow has ended once it says so on the replicator's standard input, or is dead.

    The end of that input means the same, but nobody may rely on it: children of the dataflow may
    hold copies of the input's other end for as long as they live.
    """

    def __init__(self) -> None:
        self._pid = os.getppid()
        self._input = sys.stdin.fileno()
        self._read = b""
        self._ended = threading.Event()
        self._reader, self._writer = os.pipe()
        self._thread = WatchedThread("input", self._watch)

    def read_line(self) -> bytes:
        """Read the first line of the input.

        :returns: The line; empty where the dataflow has ended before it wrote one.
        """
        while b"\n" not in self._read:
            if not self._is_readable():
                if os.getppid() != self._pid:
                    return b""
                continue
            data = os.read(self._input, _READ_BYTES)
            if not data:
                return b""
            self._read += data
        line, self._read = self._read.split(b"\n", 1)
        return line

    def _is_readable(self) -> bool:
        ready, _, _ = select.select([self._input], [], [], _LOOK_SECONDS)
        return bool(ready)

    def watch(self) -> None:
        """Begin to watch for the dataflow's end in a thread.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self._thread.start()

    def _watch(self) -> None:
        death = _open_pidfd(self._pid)
        watched = [self._input] if death is None else [self._input, death]
        look_seconds = _LOOK_SECONDS if death is None else None
        try:
            while not (END in self._read or self._has_died()):
                ready, _, _ = select.select(watched, [], [], look_seconds)
                if death in ready:
                    return
                if self._input in ready:
                    data = os.read(self._input, _READ_BYTES)
                    if not data:
                        return
                    self._read += data
        finally:  # an input that can't be read says no more about the dataflow than one that ended
            self._ended.set()
            os.close(self._writer)
            if death is not None:
                os.close(death)

    def _has_died(self) -> bool:
        return os.getppid() != self._pid

    def fileno(self) -> int:
        """Give a descriptor that a poll finds hung up once the dataflow has ended."""
        return self._reader

    @property
    def is_gone(self) -> bool:
        """Whether the dataflow has ended."""
        return self._ended.is_set() or self._has_died()

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than the dataflow lives."""
        self._ended.wait(seconds)


def _open_pidfd(pid: int) -> int | None:
    """Have the kernel tell of a process's end.

    :returns: A descriptor that is readable from then on; ``None`` where there is none to be had.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or the process is gone already
        return None
