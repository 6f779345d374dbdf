"""Where a replicator stops itself, its dataflow running on: ``CRASH_AT_STEP=replicator:STEP``.

It does so at the first pass of the step after the file of ``CRASH_NOW`` has appeared, with all its
threads; of several steps, ``replicator:STEP,STEP``, at each once and in their order. Only
``faulty_run.py`` imports this.

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
from bytewax_redis_state.recovery.records.fold import Folder
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.replicator.file_watch import FileWatch
from bytewax_redis_state.recovery.replicator.replicator import Replicator

__all__ = ["doom"]

_to_come: list[str] = []


def _sleep(step: str) -> None:
    if _to_come[:1] == [step] and Path(os.environ["CRASH_NOW"]).exists():
        _to_come.pop(0)
        # To this thread, which stops before it does anything else, and the others with it.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _always(*_: Any) -> bool:
    return True


def _before(step: str, owner: Any, method: str, when: Callable[..., bool] = _always) -> None:
    inner = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        if when(*args):
            _sleep(step)
        return inner(*args, **named)

    setattr(owner, method, wrapped)


def _after(step: str, owner: Any, method: str) -> None:
    inner = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = inner(*args, **named)
        _sleep(step)
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
    """Sleep before an inner call that an outer one makes, in the same thread."""
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


def _is_further(_folder: Any, _pipe: Any, chunks: Any, *_: Any) -> bool:
    return bool(chunks[0].number > 1)


def _is_fold(_connection: Any, command: Any, *_: Any) -> bool:
    return b":applied:" in b"".join(command)


def doom(steps: str) -> None:
    """Make this replicator stop itself at a step, or at several in their order."""
    _to_come.extend(steps.split(","))
    _before("idle", FileWatch, "wait")
    _before("append", Journal, "append")
    _within("append-answer", Journal, "append", AbstractConnection, "read_response")
    _before("fold", Folder, "fold")
    _within("fold-command", Folder, "_execute", AbstractConnection, "send_packed_command", _is_fold)
    _before("chunk", Folder, "_execute", _is_further)
    if "chunk" in _to_come:
        fold._CHUNK_KEYS = 1
    _before("trim", Journal, "trim")
    _after("trimmed", Journal, "trim")
    _before("drain", Replicator, "_drain")
    _within("drain-fold", Replicator, "_drain", Folder, "fold")
