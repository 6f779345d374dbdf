"""Where a replicator stops itself, its dataflow running on: ``CRASH_AT_STEP=replicator:STEP``.

It does so at the first pass of the step after the file of ``CRASH_NOW`` has appeared, with all its
threads. Only ``doomed_run.py`` imports this.

=================  =========================================================================
step               what comes next
=================  =========================================================================
``idle``           nothing: everything is shipped, and it waits for more
``append``         an append, of rows that were read
``append-answer``  the answer of an append that Redis has taken
``fold``           a fold, of what was found committed everywhere
``fold-command``   the command of a fold on the wire
``chunk``          a second chunk of cells whose first one is applied; a chunk is one key
``trim``           a trim, after the fold
``drain``          the lease that says so; the dataflow has ended
``drain-fold``     the last fold
=================  =========================================================================
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.connection import AbstractConnection

from bytewax_redis_state.recovery import checkpoint
from bytewax_redis_state.recovery.checkpoint import Folder
from bytewax_redis_state.recovery.journal import Journal
from bytewax_redis_state.recovery.replicator import Replicator
from bytewax_redis_state.recovery.wakeup import Wakeup

__all__ = ["doom"]

_slept = threading.Event()


def _sleep() -> None:
    if not _slept.is_set() and Path(os.environ["CRASH_NOW"]).exists():
        _slept.set()
        # To this thread, which stops before it does anything else, and the others with it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _before(owner: Any, method: str, when: Callable[..., bool] = lambda *_: True) -> None:
    inner = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        if when(*args):
            _sleep()
        return inner(*args, **named)

    setattr(owner, method, wrapped)


def _within(
    owner: Any,
    method: str,
    inner_owner: Any,
    inner_method: str,
    when: Callable[..., bool] = lambda *_: True,
) -> None:
    """Sleep before an inner call that an outer one makes, in the same thread."""
    outer, thread = getattr(owner, method), threading.local()

    def wrapped(*args: Any, **named: Any) -> Any:
        thread.within = True
        try:
            return outer(*args, **named)
        finally:
            thread.within = False

    setattr(owner, method, wrapped)
    _before(inner_owner, inner_method, lambda *a: getattr(thread, "within", False) and when(*a))


def _chunk_by_chunk() -> None:
    checkpoint._CHUNK_KEYS = 1
    _before(Folder, "_execute", lambda _folder, _pipe, chunks, _epoch: chunks[0].number > 1)


def _fold_command() -> None:
    def is_one(_connection: Any, command: Any, *_: Any) -> bool:
        return b":applied:" in b"".join(command)

    _within(Folder, "_execute", AbstractConnection, "send_packed_command", is_one)


_STEPS: dict[str, Callable[[], None]] = {
    "idle": lambda: _before(Wakeup, "wait"),
    "append": lambda: _before(Journal, "append"),
    "append-answer": lambda: _within(Journal, "append", AbstractConnection, "read_response"),
    "fold": lambda: _before(Folder, "fold"),
    "fold-command": _fold_command,
    "chunk": _chunk_by_chunk,
    "trim": lambda: _before(Journal, "trim"),
    "drain": lambda: _before(Replicator, "_drain"),
    "drain-fold": lambda: _within(Replicator, "_drain", Folder, "fold"),
}


def doom(step: str) -> None:
    """Make this replicator stop itself at a step."""
    _STEPS[step]()
