"""The watchdog: keeps a replicator alive, and stops the dataflow when that can't be done.

Invariant: a dataflow never runs on without somebody who ships its rows; a replicator that was
fenced, or that can't be restarted, ends it.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bytewax_redis_state.errors import FencedError, ReplicatorError, StateError, StateLostError
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard

__all__ = ["Watchdog", "spawn"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_START_SECONDS = 30.0
_RESTARTS, _RESTART_WINDOW = 5, 60.0
_JOIN_SECONDS = 2.0


def spawn(lock: int) -> subprocess.Popen[bytes]:
    """Start a replicator, which waits for its setup.

    :arg lock: Descriptor that keeps the scratch folder locked; the replicator gets it too.
    :returns: The process; it ends when its input does.
    """
    # It ignores Ctrl-C as soon as it runs; until then the signals wait, inherited as blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "bytewax_redis_state.recovery.replicator.process"],
            stdin=subprocess.PIPE,
            pass_fds=(lock,),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Watchdog:
    """Starts a replicator and restarts it when it dies.

    :arg setup: For the replicator.
    :arg lock: Descriptor that keeps the scratch folder locked; the replicator gets it too.
    :arg on_failure: Gets the error when the replicator is lost for good, or the flow has to stop;
        called once, in a thread.
    :arg heed: Gets the replicator's status all the time; gives an error where the flow has to stop.
    :arg spare: A process from :func:`spawn` to begin with.
    """

    def __init__(
        self,
        setup: ReplicatorConfig,
        lock: int,
        on_failure: Callable[[StateError], None],
        heed: Callable[[Status], StateError | None],
        spare: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self._setup = setup
        self._lock_fd = lock
        self._on_failure = on_failure
        self._heed = heed
        self._board = StatusBoard(Path(setup.status))
        self._deaths: deque[float] = deque(maxlen=_RESTARTS)
        self.restarts = 0
        self._disarmed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._process = self._brief(spare or spawn(lock))

    @property
    def pid(self) -> int:
        """Process ID of the replicator."""
        return self._process.pid

    @property
    def status(self) -> Status:
        """What the replicator shows."""
        return self._board.read()

    def _brief(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # died at once: whoever waits for it will see
            process.stdin.write(self._setup.to_json().encode() + b"\n")
            process.stdin.flush()
        return process

    def start(self) -> None:
        """Wait until the replicator works, then watch it.

        :raises StateError: If it ends, or does not start in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self.status.state is ReplicatorState.STARTING:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ReplicatorError("the replicator does not start", "see what it says above")
            time.sleep(0.005)
        failure = self._failure(self.status)
        if failure is not None:
            self.kill()
            raise failure
        self._thread.start()

    @staticmethod
    def _failure(status: Status) -> StateError | None:
        match status.state:
            case ReplicatorState.FENCED:
                return FencedError(status.text)
            case ReplicatorState.LOST:
                return StateLostError(status.text)
            case ReplicatorState.FAILED | ReplicatorState.UNDRAINED:
                return ReplicatorError(status.text)
            case _:
                return None

    def _watch(self) -> None:
        while not self._disarmed.wait(_POLL_SECONDS):
            status = self.status
            failure = self._heed(status)
            if failure is None and self._process.poll() is not None:
                failure = self._failure(self.status) or self._restart()
            if failure is not None and not self._disarmed.is_set():
                self._on_failure(failure)
                return

    def _restart(self) -> StateError | None:
        now = time.monotonic()
        code = self._process.returncode
        if len(self._deaths) == _RESTARTS and now - self._deaths[0] < _RESTART_WINDOW:
            return ReplicatorError(
                f"the replicator died {_RESTARTS + 1} times in {_RESTART_WINDOW:.0f} s, "
                f"the last time with code {code}",
                "see its log; the flow resumes from what Redis has",
            )
        self._deaths.append(now)
        self.restarts += 1
        logger.warning("replicator died code=%s, restarting it", code)
        self._process = self._brief(spawn(self._lock_fd))
        return None

    def disarm(self) -> None:
        """Stop watching; a failure after this is nobody's business."""
        self._disarmed.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            # Within a bound, because this runs in signal handlers, too: the thread may wait for a
            # lock that the interrupted code holds, or for a reporter that never returns.
            self._thread.join(_JOIN_SECONDS)

    def drain(self, timeout: float) -> StateError | None:
        """Tell the replicator that the dataflow has ended, and wait until everything is shipped.

        :arg timeout: Seconds; the replicator gives up by itself a little earlier.
        :returns: Why not everything was shipped, or ``None``.
        """
        self.disarm()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died; its status says more
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return ReplicatorError(
                f"the replicator has not drained in {timeout:.0f} s",
                "the flow resumes from what Redis has",
            )
        failure = self._failure(self.status)
        if failure is None and self.status.state is not ReplicatorState.DRAINED:
            return ReplicatorError(
                f"the replicator died with code {self._process.returncode} while draining",
                "the flow resumes from what Redis has",
            )
        return failure

    def kill(self) -> None:
        """End the replicator at once; what it has not shipped is replayed by the next start."""
        self._disarmed.set()
        self._process.kill()
        # With a timeout, because this runs in signal handlers, too: without one, it waits for the
        # lock that an interrupted wait() holds.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_JOIN_SECONDS)
