"""Stopping: how a run ends, what is done at its end, and which error its caller gets.

A run ends in one of four ways:

1. The engine returns, because the input has ended.
2. The engine raises: an error of the flow's code, or an error of ours from inside the engine.
3. A thread of ours fails (the watchdog's, the lease's) and interrupts the main thread.
4. Ctrl-C or SIGTERM interrupts the main thread. A process of a cluster drains and ends in the
   signal handler.

In each of them the replicator ships what is committed before the process goes on.

Invariant: every end is reached within a bound, and an error of ours is never replaced by the
engine's "thread panic".
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

from bytewax_redis_state.errors import FencedError, StateError
from bytewax_redis_state.recovery.interrupts import Interrupts
from bytewax_redis_state.recovery.replicator.backpressure import Backpressure
from bytewax_redis_state.recovery.replicator.watchdog import Watchdog
from bytewax_redis_state.recovery.reporter import Reporter

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "Stopping", "raise_reason"]

EXIT_FAILED = 2
"""Exit code of a process that had to stop."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

_STOP_SECONDS = 5.0  # for the engine to end after an interrupt
_STOP_TRIES = 6
_REPORT_SECONDS = 2.0
_DRAIN_GRACE = 10.0  # the replicator gives up by itself; this is for one that hangs


class Stopping:
    """The end of one run.

    :arg reporter: Gets the reason where this process ends without a caller to raise it to; it
        must never raise.
    :arg process_count: Number of processes of the cluster.
    :arg drain_timeout: How long the replicator may go on shipping.
    """

    def __init__(self, reporter: Reporter, process_count: int, drain_timeout: timedelta) -> None:
        self._reporter = reporter
        self._is_cluster = process_count > 1
        self._drain_seconds = drain_timeout.total_seconds() + _DRAIN_GRACE
        self._begun = threading.Event()
        self._codec_error: StateError | None = None
        self._watchdog: Watchdog | None = None
        self._backpressure: Backpressure | None = None
        self._clean_up: Callable[[], None] = lambda: None
        self._is_leaving = False
        self.interrupts = Interrupts(self._begun)
        self.failure: StateError | None = None
        self.was_interrupted_twice = False

    def engine_starts(
        self, watchdog: Watchdog, backpressure: Backpressure, clean_up: Callable[[], None]
    ) -> None:
        """Note that from now on the engine may run, and there is something to drain.

        :arg watchdog: Of the replicator that works.
        :arg backpressure: Says whether the scratch disk is full.
        :arg clean_up: Gives back what the session holds, where the process ends in a signal
            handler.
        """
        self._watchdog = watchdog
        self._backpressure = backpressure
        self._clean_up = clean_up
        if self._is_cluster:
            # An interrupted process of a Bytewax cluster waits for the others for ever, and they
            # for it. The end of a process makes the others end at once, so this one drains in the
            # signal handler and ends there.
            self.interrupts.end_process_by(self._leave_cluster)

    # -- from threads of ours -------------------------------------------------------------

    def fail(self, error: StateError) -> None:
        """Stop the run because of an error in a thread of ours.

        Returns when the main thread has begun to stop, or ends the process.

        :arg error: The caller of the run gets it.
        """
        self.failure = self.failure or error
        # More than once, because the flow's own code may swallow an interrupt or wait in a call
        # that no interrupt breaks. Once in a cluster, because an engine that waits for the other
        # processes to connect never looks for one.
        for _ in range(1 if self._is_cluster else _STOP_TRIES):
            self.interrupts.interrupt()
            if self._watchdog is None or self._begun.wait(_STOP_SECONDS):
                return
        self._report(error)
        os._exit(EXIT_FAILED)

    def _report(self, error: StateError) -> None:
        """Tell why this process ends, within a bound: a reporter may wait for a full pipe."""
        thread = threading.Thread(target=self._reporter.failed, args=(error,), daemon=True)
        with suppress(RuntimeError):  # no thread to be had: the process ends without the line
            thread.start()
            thread.join(_REPORT_SECONDS)

    def note_codec_error(self, error: StateError) -> None:
        """Keep an error of the codec, which the engine of a cluster turns into "thread panic"."""
        self._codec_error = self._codec_error or error

    # -- in the main thread ---------------------------------------------------------------

    def drain(self) -> StateError | None:
        """Have the replicator ship all committed rows.

        :returns: Why not everything was shipped, or ``None``.
        :raises KeyboardInterrupt: If a second interrupt comes.
        """
        self._begun.set()
        if self._watchdog is None:
            return None
        try:
            self._watchdog.disarm()
            if self.failure is not None:  # then nobody can ship
                return None
            return self._watchdog.drain(self._drain_seconds)
        except (KeyboardInterrupt, SystemExit):  # as the flow's signal handler has it
            self.was_interrupted_twice = True
            raise

    def end(self, error: BaseException | None) -> BaseException | None:
        """Drain, and choose the error that the caller of the run gets.

        :arg error: What the engine raised; ``None`` where it returned.
        :returns: The reason for the end: ours before the engine's, the first one before later ones;
            ``None`` where nothing went wrong.
        """
        # Before the drain, which makes room on the disk.
        scratch_error = self._scratch_error(error)
        undrained = self.drain()
        reason = self.failure or scratch_error or _cause_of(error) or (error and self._codec_error)
        if reason is None and _is_panic(error) and isinstance(undrained, FencedError):
            # Another process of the cluster learned of the takeover first; its end is the panic.
            return undrained
        if error is None and reason is None:
            return undrained
        if undrained is not None:
            self._reporter.warn(str(undrained))
        return reason or error

    def _scratch_error(self, error: BaseException | None) -> StateError | None:
        """Tell whether the engine may have met a full disk: it says "thread panic" then."""
        if error is None or self.failure or self._backpressure is None or self._watchdog is None:
            return None
        return self._backpressure.scratch_error(self._watchdog.status)

    def _leave_cluster(self) -> NoReturn:
        """Drain and end this process of a cluster; in a signal handler."""
        assert self._watchdog is not None
        if self._is_leaving:  # a second interrupt
            self._watchdog.kill()
            os._exit(EXIT_INTERRUPTED)
        self._is_leaving = True
        undrained = self.drain()
        for error in filter(None, (self.failure, undrained)):
            self._report(error)
        with suppress(StateError):  # the next start removes what is left
            self._clean_up()
        with suppress(OSError, ValueError):  # its reader may have gone, or it was closed
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED if self.failure is None else EXIT_FAILED)


def _is_panic(error: BaseException | None) -> bool:
    """Tell whether the engine ended by itself, not by the flow's code or an interrupt."""
    return error is not None and not isinstance(error, (Exception, KeyboardInterrupt, SystemExit))


def _cause_of(error: BaseException | None) -> BaseException | None:
    """Find an error of ours, or an interrupt, within the errors that the engine wraps them in."""
    seen: set[int] = set()  # the flow's code may have closed a circle
    while error is not None and id(error) not in seen:
        if isinstance(error, (StateError, KeyboardInterrupt)):
            return error
        seen.add(id(error))
        error = error.__cause__
    return None


def _leads_to(error: BaseException | None, reason: BaseException) -> bool:
    """Tell whether an exception is among the causes and contexts of an error."""
    seen: set[int] = set()
    rest = [error]
    while rest:
        one = rest.pop()
        if one is reason:
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            rest += one.__cause__, one.__context__
    return False


def raise_reason(reason: BaseException, error: BaseException | None) -> NoReturn:
    """Raise why a run ended, where the engine ended with another error.

    :arg reason: What is raised.
    :arg error: What the engine raised: the cause of the reason, unless the reason caused it.
    """
    if not _leads_to(error, reason):
        raise reason from error
    # If the reason named an error that it has caused as its own cause or context, the chain would
    # be a circle, and code that walks it (rich's traceback handler) would never end.
    context = reason.__context__
    try:
        raise reason
    finally:
        reason.__context__ = context
