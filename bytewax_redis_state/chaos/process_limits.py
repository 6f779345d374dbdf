"""Limits of a running process: open files, the size of a file, memory, processes.

Each is lowered to what the process uses now, so that the next thing that it needs is refused.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = ["LIMITS", "lowered"]

_MIB = 1024 * 1024
LIMITS = ("files", "file-size", "memory", "processes")
"""The limits; that of processes does not bind root."""


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _largest_file(pid: int) -> int:
    sizes = [0]
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            path = entry.resolve()
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def _memory(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE") + _MIB


def _processes(pid: int) -> int:
    return 1


_USED = {
    "files": (resource.RLIMIT_NOFILE, _open_files),
    "file-size": (resource.RLIMIT_FSIZE, _largest_file),
    "memory": (resource.RLIMIT_AS, _memory),
    "processes": (resource.RLIMIT_NPROC, _processes),
}


@contextmanager
def lowered(limit: str, pids: Sequence[int]) -> Iterator[None]:
    """Lower a limit of some processes for as long as the block lasts.

    :arg limit: One of :data:`LIMITS`.
    :arg pids: Processes; one that has ended is left out.
    """
    number, used = _USED[limit]
    with ExitStack() as stack:
        for pid in pids:
            with suppress(ProcessLookupError, FileNotFoundError):
                before = resource.prlimit(pid, number)
                resource.prlimit(pid, number, (used(pid), before[1]))
                stack.callback(_restore, pid, number, before)
        yield


def _restore(pid: int, number: int, before: tuple[int, int]) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, number, before)
