"""The most memory that a flow's process, and the replicator beside it, ever had.

Read from ``/proc``: what ``getrusage`` says of a child begins with what its parent had.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_EVERY = 0.2  # seconds


def peak_mib(process: int) -> float:
    """Give the most memory that a process ever had; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


class PeakMemory:
    """Measures this process, and its replicator for as long as that is watched."""

    def __init__(self) -> None:
        self.replicator = 0.0

    @property
    def own(self) -> float:
        """The most memory of this process so far, in MiB."""
        return peak_mib(os.getpid())

    def watch(self) -> None:
        """Look at the replicator every 0.2 s, in a thread."""
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            for child in _replicators():
                self.replicator = max(self.replicator, peak_mib(child))
            time.sleep(_EVERY)


def _replicators() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if parent == os.getpid() and b"replicator" in command:
            yield int(path.parent.name)
