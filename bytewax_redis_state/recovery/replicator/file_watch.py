"""FileWatch: waits until the outbox may have changed, at next to no cost.

On Linux the kernel tells of writes to the outbox's folder (inotify). A poll that is short enough
for the lag would be too often for an idle flow. Elsewhere than on Linux a poll every 20 ms has to
do. Invariant: it only saves time. The kernel tells of a write before SQLite shows it, and may not
tell of it at all, so the caller looks again after each wait.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import sys
from pathlib import Path

from bytewax_redis_state.recovery.replicator.parent_process import ParentProcess

__all__ = ["FileWatch"]

logger = logging.getLogger(__name__)

_LEAST = 0.002
_MOST_WITH_INOTIFY, _MOST_WITHOUT = 0.25, 0.02
_GROWTH = 1.5
_WRITTEN = 0x2  # IN_MODIFY
_EVENTS_BYTES = 64 * 1024


def _open_inotify(folder: Path) -> int | None:
    """Have the kernel tell of writes to a folder's files.

    :returns: The descriptor that tells; ``None`` where there is none to be had.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(folder), _WRITTEN) >= 0:
        return int(descriptor)
    # The limits on instances and watches are per user, and others may have used them up.
    logger.info("no inotify why=%s", os.strerror(ctypes.get_errno()))
    if descriptor >= 0:
        os.close(descriptor)
    return None


class FileWatch:
    """Wait for writes; each wait in which nothing was written makes the next one longer.

    :arg folder: Of the outbox.
    :arg parent_process: Its end ends a wait too.
    """

    def __init__(self, folder: Path, parent_process: ParentProcess) -> None:
        self._parent_process = parent_process
        self._inotify = _open_inotify(folder)
        self._most = _MOST_WITHOUT if self._inotify is None else _MOST_WITH_INOTIFY
        self._poll = select.poll()
        self._poll.register(parent_process, 0)  # a hang-up is reported without being asked for
        if self._inotify is not None:
            self._poll.register(self._inotify, select.POLLIN)
        self._next = _LEAST

    def reset(self) -> None:
        """Make the next wait a short one."""
        self._next = _LEAST

    def wait(self) -> None:
        """Wait until something was written, but no longer than the dataflow lives."""
        ready = self._poll.poll(self._next * 1000)
        self._next = min(self._next * _GROWTH, self._most)
        if any(descriptor == self._inotify for descriptor, _ in ready):
            # A large epoch is thousands of writes: one look for many. And the kernel tells of a
            # write before SQLite shows the commit, so the next wait has to be short.
            self._parent_process.wait(_LEAST)
            self._discard_events()
            self._next = _LEAST

    def _discard_events(self) -> None:
        assert self._inotify is not None
        try:
            os.read(self._inotify, _EVENTS_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor of inotify."""
        if self._inotify is not None:
            os.close(self._inotify)
            self._inotify = None
