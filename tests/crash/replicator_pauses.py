"""Steps at which a replicator stops itself while its dataflow runs on.

``CRASH_AT_STEP=replicator:STEP`` stops it, with all its threads, at its first pass of the step
after the file of ``CRASH_NOW`` has appeared. ``replicator:STEP,STEP`` stops it at each step once,
in this order. Only ``faulty_run.py`` imports this module.

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
``trimmed``        what follows a trim that was done
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

from bytewax_redis_state.recovery.records import fold
from bytewax_redis_state.recovery.records.fold import JournalFold
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.replicator.file_watch import FileWatch
from bytewax_redis_state.recovery.replicator.replicator import Replicator

__all__ = ["pause_at"]

_steps_left: list[str] = []


def _pause(step: str) -> None:
    if _steps_left[:1] == [step] and Path(os.environ["CRASH_NOW"]).exists():
        _steps_left.pop(0)
        # The signal goes to this thread, so that the thread stops before its next instruction; the
        # others stop with it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _always(*_: Any) -> bool:
    return True


def _before(step: str, owner: Any, method: str, when: Callable[..., bool] = _always) -> None:
    inner = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        if when(*args):
            _pause(step)
        return inner(*args, **named)

    setattr(owner, method, wrapped)


def _after(step: str, owner: Any, method: str) -> None:
    inner = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = inner(*args, **named)
        _pause(step)
        return result

    setattr(owner, method, wrapped)


def _within(
    step: str,
    owner: Any,
    method: str,
    inner_owner: Any,
    inner_method: str,
    when: Callable[..., bool] = _always,
) -> None:
    """Stop before an inner call that an outer one makes, in the same thread."""
    outer, thread = getattr(owner, method), threading.local()

    def wrapped(*args: Any, **named: Any) -> Any:
        thread.within = True
        try:
            return outer(*args, **named)
        finally:
            thread.within = False

    setattr(owner, method, wrapped)

    def is_time(*args: Any) -> bool:
        return getattr(thread, "within", False) and when(*args)

    _before(step, inner_owner, inner_method, is_time)


def _is_further(_fold: Any, _pipe: Any, chunks: Any, *_: Any) -> bool:
    return bool(chunks[0].number > 1)


def _is_fold(_connection: Any, command: Any, *_: Any) -> bool:
    return b":applied:" in b"".join(command)


def pause_at(steps: str) -> None:
    """Make this replicator stop itself at one or several steps, in their order."""
    _steps_left.extend(steps.split(","))
    _before("idle", FileWatch, "wait")
    _before("append", Journal, "append")
    _within("append-answer", Journal, "append", AbstractConnection, "read_response")
    _before("fold", JournalFold, "fold")
    _within(
        "fold-command", JournalFold, "_execute", AbstractConnection, "send_packed_command", _is_fold
    )
    _before("chunk", JournalFold, "_execute", _is_further)
    if "chunk" in _steps_left:
        fold._CHUNK_KEYS = 1
    _before("trim", Journal, "trim")
    _after("trimmed", Journal, "trim")
    _before("drain", Replicator, "_drain")
    _within("drain-fold", Replicator, "_drain", JournalFold, "fold")
