"""The wakeup: waits until the outbox may have changed, at next to no cost.

The kernel tells of writes to the outbox's folder where it can (inotify, on Linux); elsewhere short
waits take its place. Invariant: it only saves time. A write is told before SQLite shows what was
written, and may not be told at all, so its user looks again after each wait.
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
_MOST_TOLD, _MOST_UNTOLD = 0.25, 0.02
_GROWTH = 1.5
_WRITTEN = 0x2  # IN_MODIFY
_EVENTS_BYTES = 64 * 1024


def _watch(folder: Path) -> int | None:
    """Have the kernel tell of writes to a folder's files; gives the descriptor that tells."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, os.fsencode(folder), _WRITTEN) >= 0:
        return int(descriptor)
    # A user may have used up what there is; then waits are short.
    logger.info("no inotify why=%s", os.strerror(ctypes.get_errno()))
    if descriptor >= 0:
        os.close(descriptor)
    return None


class FileWatch:
    """Wait for writes, for longer the longer there are none.

    :arg folder: Where the outbox is.
    :arg parent: Whose end ends a wait too.
    """

    def __init__(self, folder: Path, parent: ParentProcess) -> None:
        self._parent = parent
        self._told = _watch(folder)
        self._most = _MOST_UNTOLD if self._told is None else _MOST_TOLD
        self._poll = select.poll()
        self._poll.register(parent, 0)  # an end is always told
        if self._told is not None:
            self._poll.register(self._told, select.POLLIN)
        self._next = _LEAST

    def reset(self) -> None:
        """Make the next wait a short one."""
        self._next = _LEAST

    def wait(self) -> None:
        """Wait until something was written, but no longer than the dataflow lives."""
        ready = self._poll.poll(self._next * 1000)
        self._next = min(self._next * _GROWTH, self._most)
        if any(descriptor == self._told for descriptor, _ in ready):
            # A large epoch is thousands of writes: one look for many.
            self._parent.wait(_LEAST)
            self._swallow()
            self._next = _LEAST

    def _swallow(self) -> None:
        assert self._told is not None
        try:
            os.read(self._told, _EVENTS_BYTES)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Stop being told."""
        if self._told is not None:
            os.close(self._told)
            self._told = None
