"""The watchdog: keeps a replicator alive, and stops the dataflow when that can't be done.

Invariant: a dataflow never runs on without a replicator that ships its rows; a replicator that was
fenced, or that can't be restarted, ends it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bytewax_redis_state.errors import FencedError, ReplicatorError, StateError, StateLostError
from bytewax_redis_state.recovery.child_processes import close_in_children
from bytewax_redis_state.recovery.replicator.backoff import Backoff
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.parent_process import END
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard
from bytewax_redis_state.recovery.watched_thread import WatchedThread

__all__ = ["ReplicatorProcess", "Watchdog", "spawn"]

logger = logging.getLogger(__name__)

_MODULE = "bytewax_redis_state.recovery.replicator.process"
# What -P does, which Python 3.10 does not have.
_LIKE_P = (
    "import sys; del sys.path[0]; import runpy; runpy.run_module(sys.argv[1], None, '__main__')"
)
_POLL_SECONDS = 0.05
_START_SECONDS = 30.0
_RESTARTS, _RESTART_WINDOW = 5, 60.0
_JOIN_SECONDS = 2.0
_SPAWN_SECONDS = 30.0


def _command() -> list[str]:
    """Give the command of a replicator.

    The working directory is left out of its modules' path: a ``redis.py`` there would run in the
    replicator in place of the library.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", _MODULE]
    return [sys.executable, "-c", _LIKE_P, _MODULE]


class ReplicatorProcess(subprocess.Popen[bytes]):
    """The process of a replicator, with its input.

    :arg lock: Descriptor that keeps the scratch folder locked; the replicator gets it too.
    """

    def __init__(self, lock: int) -> None:
        # Unbuffered, because what a child of this process has copied of a buffer it may write.
        super().__init__(_command(), stdin=subprocess.PIPE, pass_fds=(lock,), bufsize=0)
        self._input = self._input_descriptor()
        self._leave_to_children = close_in_children(self._input)

    def _input_descriptor(self) -> int:
        assert self.stdin is not None
        return self.stdin.fileno()

    def tell(self, line: bytes) -> None:
        """Write a line to its input; one that has died gets none, as whoever waits for it sees."""
        rest = memoryview(line)
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(self._input, rest) :]

    def end_input(self) -> None:
        """Tell it that the dataflow has ended.

        By a line, because children of this process may hold its input open, as by a fork that
        Python does not see.
        """
        if self.stdin is not None and not self.stdin.closed:
            self.tell(END)
            self._leave_to_children()
            self.stdin.close()


def spawn(lock: int) -> ReplicatorProcess:
    """Start a replicator, which waits for its config.

    :arg lock: Descriptor that keeps the scratch folder locked; the replicator gets it too.
    :returns: The process; it ends when it is told that its input does.
    :raises ReplicatorError: If the system starts no process.
    """
    # It ignores Ctrl-C as soon as it runs; until then the signals wait, inherited as blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return ReplicatorProcess(lock)
    except OSError as error:
        raise ReplicatorError(
            f"the replicator's process can't be started: {error}",
            "raise the limit on processes (ulimit -u, pids.max) or free memory, then start the "
            "flow again: it resumes from what Redis has",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Watchdog:
    """Starts a replicator and restarts it when it dies.

    :arg config: For the replicator.
    :arg lock: Descriptor that keeps the scratch folder locked; the replicator gets it too.
    :arg on_failure: Gets the error when the replicator is lost for good, or the flow has to stop;
        called once, in a thread.
    :arg on_status: Gets the replicator's status all the time; gives an error where the flow has to
        stop.
    :arg process: A process from :func:`spawn` to begin with.
    """

    def __init__(
        self,
        config: ReplicatorConfig,
        lock: int,
        on_failure: Callable[[StateError], None],
        on_status: Callable[[Status], StateError | None],
        process: ReplicatorProcess | None = None,
    ) -> None:
        self._config = config
        self._lock_fd = lock
        self._on_failure = on_failure
        self._on_status = on_status
        self._board = StatusBoard(Path(config.status))
        self._deaths: deque[float] = deque(maxlen=_RESTARTS)
        self.restarts = 0
        self._died_at: float | None = None
        self._spawn_at = 0.0
        self._backoff = Backoff()
        self._thread = WatchedThread("watchdog", self._watch, self._fail)
        self._process = self._configure(process or spawn(lock))

    @property
    def pid(self) -> int:
        """Process ID of the replicator."""
        return self._process.pid

    @property
    def status(self) -> Status:
        """The status that the replicator shows."""
        return self._board.read()

    def _configure(self, process: ReplicatorProcess) -> ReplicatorProcess:
        process.tell(self._config.to_json().encode() + b"\n")
        return process

    def start(self) -> None:
        """Wait until the replicator works, then watch it.

        :raises StateError: If it ends, or does not start in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self.status.state is ReplicatorState.STARTING:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ReplicatorError("the replicator does not start", "read its lines above")
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
        while not self._thread.wait(_POLL_SECONDS):
            failure = self._on_status(self.status) or self._keep_alive()
            if failure is not None:
                raise failure

    def _fail(self, error: StateError) -> None:
        if not self._thread.is_stopping:  # a failure after that is nobody's business
            self._on_failure(error)

    def _keep_alive(self) -> StateError | None:
        """Restart the replicator where it has died.

        :returns: Why that is no use, or can't be done; ``None`` where there is a replicator, or
            another try is to come.
        """
        # Where the watchdog was asked to stop meanwhile, the replicator has drained and ended.
        if self._thread.is_stopping or self._process.poll() is None:
            return None
        if self._died_at is None:
            failure = self._failure(self.status) or self._note_death()
            if failure is not None:
                return failure
        return self._restart()

    def _note_death(self) -> StateError | None:
        now = time.monotonic()
        code = self._process.returncode
        if len(self._deaths) == _RESTARTS and now - self._deaths[0] < _RESTART_WINDOW:
            return ReplicatorError(
                f"the replicator died {_RESTARTS + 1} times in {_RESTART_WINDOW:.0f} s, "
                f"the last time with code {code}",
                "see its log; the flow resumes from what Redis has",
            )
        logger.warning("replicator died code=%s, restarting it", code)
        self._deaths.append(now)
        self._died_at = now
        return None

    def _restart(self) -> StateError | None:
        assert self._died_at is not None
        if time.monotonic() < self._spawn_at:
            return None
        try:
            process = spawn(self._lock_fd)
        except ReplicatorError as error:
            # As a rule a process table is full for a moment only; the outbox keeps the rows.
            if time.monotonic() > self._died_at + _SPAWN_SECONDS:
                return error
            logger.warning("replicator not restarted why=%s", error)
            self._spawn_at = time.monotonic() + self._backoff.next()
            return None
        self._process.end_input()
        self.restarts += 1
        self._died_at = None
        self._backoff.reset()
        self._process = self._configure(process)
        return None

    def disarm(self) -> None:
        """Stop watching; a failure after this is nobody's business."""
        # Within a bound, because this runs in signal handlers, too: the thread may wait for a lock
        # that the interrupted code holds, or for a reporter that never returns.
        self._thread.stop(_JOIN_SECONDS)

    def drain(self, timeout: float) -> StateError | None:
        """Tell the replicator that the dataflow has ended, and wait until everything is shipped.

        :arg timeout: Seconds; the replicator gives up by itself a little earlier.
        :returns: Why not everything was shipped, or ``None``.
        """
        self.disarm()
        self._process.end_input()
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
        self._thread.ask_to_stop()
        self._process.kill()
        # With a timeout, because this runs in signal handlers, too: without one, it waits for the
        # lock that an interrupted wait() holds.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_JOIN_SECONDS)
        self._process.end_input()
