"""WatchedThread: a thread whose death is seen by somebody.

Python prints the exception that ends a thread, and the program goes on without the thread. Here
such a thread renews the lease, folds the journal or watches the replicator, so each is a
``WatchedThread``. Invariant: a thread ends because it was asked to, or its owner learns why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bytewax_redis_state.errors import ReplicatorError, StateError

__all__ = ["WatchedThread"]

logger = logging.getLogger(__name__)

_START_SECONDS = 5.0
_RETRY_SECONDS = 0.1


class WatchedThread:
    """Run a function in a daemon thread, and keep what ended it.

    :arg name: Of the thread; errors and debuggers show it.
    :arg work: What runs in the thread; it ends soon after :meth:`wait` has returned ``True``.
    :arg on_failure: Gets the exception that ended the thread, as an error of ours; called once, in
        the thread. Without it the owner has to call :meth:`require_sound` now and then.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        on_failure: Callable[[StateError], None] | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread; a system that is short of threads is asked again for a few seconds.

        :raises ReplicatorError: If it still refuses then.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # "can't start new thread": a limit, or no memory
                if self._stopping.wait(_RETRY_SECONDS):
                    return
                if time.monotonic() > deadline:
                    raise ReplicatorError(
                        f"the thread {self._name!r} can't be started: {error}",
                        "raise the limit on processes and threads (ulimit -u, pids.max), then "
                        "start the flow again: it resumes from what Redis has",
                    ) from error
            else:
                self._thread = thread
                return

    def _run(self) -> None:
        try:
            self._work()
        # Whatever it is: a thread that dies unseen leaves the flow without what the thread does.
        except BaseException as error:
            self._error = error
            if not isinstance(error, StateError):
                logger.exception("thread failed name=%s", self._name)
            if self._on_failure is not None:
                self._on_failure(self._as_ours(error))

    def _as_ours(self, error: BaseException) -> StateError:
        if isinstance(error, StateError):
            return error
        ours = ReplicatorError(
            f"the thread {self._name!r} failed: {type(error).__name__}: {error}",
            "see the traceback in the log; the flow resumes from what Redis has",
        )
        ours.__cause__ = error
        return ours

    @property
    def is_alive(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def require_sound(self) -> None:
        """Raise the exception that ended the thread, if one did."""
        if self._error is not None:
            raise self._error

    def wait(self, seconds: float) -> bool:
        """Wait in the thread, at most until it is asked to stop.

        :arg seconds: How long.
        :returns: Whether the thread has to end.
        """
        return self._stopping.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        """Whether the thread was asked to stop."""
        return self._stopping.is_set()

    def ask_to_stop(self) -> None:
        """Let the thread end soon; from any thread, and at once."""
        self._stopping.set()

    def stop(self, timeout: float | None = None) -> None:
        """Ask the thread to stop, and wait for its end; in the thread itself only ask.

        :arg timeout: How many seconds to wait at most.
        """
        self.ask_to_stop()
        if self.is_alive and threading.current_thread() is not self._thread:
            assert self._thread is not None
            self._thread.join(timeout)
