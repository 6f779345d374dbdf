"""ParentProcess: the dataflow's process, as its replicator sees it.

Invariant: a dataflow that has ended stays ended, and whoever waits learns of its end at once.
"""

from __future__ import annotations

import os
import sys
import threading

from bytewax_redis_state.recovery.watched_thread import WatchedThread

__all__ = ["ParentProcess"]


class ParentProcess:
    """The end of the replicator's standard input is the end of the dataflow, as is another parent.

    The input alone would not do: a child of the dataflow may have inherited its other end.
    """

    def __init__(self) -> None:
        self._pid = os.getppid()
        self._ended = threading.Event()
        self._reader, self._writer = os.pipe()
        self._thread = WatchedThread("input", self._read_to_the_end)

    def watch(self) -> None:
        """Begin to read the input in a thread.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self._thread.start()

    def _read_to_the_end(self) -> None:
        try:
            while sys.stdin.read(1):
                pass
        finally:  # an input that can't be read says no more about the dataflow than one that ended
            self._ended.set()
            os.close(self._writer)

    def fileno(self) -> int:
        """Give a descriptor that a poll finds hung up once the dataflow has ended."""
        return self._reader

    @property
    def is_gone(self) -> bool:
        """Whether the dataflow has ended."""
        return self._ended.is_set() or os.getppid() != self._pid

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than the dataflow lives."""
        self._ended.wait(seconds)
