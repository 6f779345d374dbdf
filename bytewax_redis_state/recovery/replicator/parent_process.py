"""The parent of a replicator: the dataflow's process, watched.

Invariant: once it is gone it stays gone, and whoever waits learns of it at once.
"""

from __future__ import annotations

import os
import sys
import threading

__all__ = ["ParentProcess"]


class ParentProcess:
    """The dataflow's process: the end of our input is its end, or another parent."""

    def __init__(self) -> None:
        self._pid = os.getppid()
        self._orphaned = threading.Event()
        self._reader, self._writer = os.pipe()

    def watch(self) -> None:
        """Watch the input's end in a thread; the parent's ID catches inherited descriptors."""

        def wait_for_end() -> None:
            while sys.stdin.read(1):
                pass
            self._orphaned.set()
            os.close(self._writer)

        threading.Thread(target=wait_for_end, name="parent", daemon=True).start()

    def fileno(self) -> int:
        """Give a descriptor that has an end when the dataflow has."""
        return self._reader

    @property
    def is_gone(self) -> bool:
        """Whether the dataflow has ended."""
        return self._orphaned.is_set() or os.getppid() != self._pid

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than the dataflow lives."""
        self._orphaned.wait(seconds)
