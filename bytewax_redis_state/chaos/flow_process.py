"""One process of a dataflow, started and killed for real, in a process group of its own.

Its replicator is in the same process group, so that one signal reaches both. Every wait here is for
a condition and has a bound.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS, wait_until
from bytewax_redis_state.recovery.replicator.status import Status, StatusBoard

__all__ = ["FlowProcess", "ResumeMessage"]

_CLOSE_SECONDS = 0.05
_PIPE_BYTES = 64 * 1024
_REPLICATOR = b"bytewax_redis_state.recovery.replicator.process"
_RESUMED = re.compile(
    r"(?:resumed|starting) at epoch (\d+)(?: without state)?, generation (\d+)"
    r"(?:, keys: (.*), in [\d.]+ s)?"
)


@dataclass(frozen=True)
class ResumeMessage:
    """The message of a process whose engine is about to start.

    :arg keys: State keys restored, by short step name.
    """

    epoch: int
    generation: int
    keys: Mapping[str, int]

    @property
    def total(self) -> int:
        """State keys of all steps."""
        return sum(self.keys.values())


def _stat(pid: int) -> tuple[str, int] | None:
    """Read state and process group."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[2])


def _is_replicator(pid: int) -> bool:
    try:
        return _REPLICATOR in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


class FlowProcess:
    """One dataflow process.

    :arg command: What to run.
    :arg environ: Whole environment.
    :arg folder: For the files with its output; one for each process.
    :arg scratch: Directory of its outbox.
    :arg cwd: Its working directory, where that is not this process's.
    :arg piped: Its standard error is a pipe, which can be closed.
    """

    def __init__(
        self,
        command: Sequence[object],
        environ: Mapping[str, str],
        folder: Path,
        scratch: Path,
        *,
        cwd: Path | None = None,
        piped: bool = False,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.scratch = scratch
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._err_closed = threading.Event()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                env=dict(environ),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE if piped else err,
                start_new_session=True,
            )
        if piped:
            threading.Thread(target=self._copy_err, name="stderr", daemon=True).start()

    def _copy_err(self) -> None:
        """Copy standard error to its file, until its last writer has ended or it is closed."""
        pipe = self.popen.stderr
        assert pipe is not None
        with pipe, self._err.open("ab", buffering=0) as file:
            while not self._err_closed.is_set():
                if select.select([pipe], [], [], _CLOSE_SECONDS)[0]:
                    data = os.read(pipe.fileno(), _PIPE_BYTES)
                    if not data:
                        return
                    file.write(data)

    def close_err(self) -> None:
        """Close the pipe: whatever is written to standard error from now on fails."""
        self._err_closed.set()
        time.sleep(2 * _CLOSE_SECONDS)

    @property
    def out(self) -> str:
        """Its standard output so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """Standard error of it and its replicator so far."""
        return self._err.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process ID of the dataflow."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether the dataflow lives."""
        return self.popen.poll() is None

    @property
    def resumed(self) -> ResumeMessage | None:
        """Its message that the engine is about to start; ``None`` before that."""
        match = _RESUMED.search(self.err)
        if match is None:
            return None
        counts = (part.split(" ", 1) for part in (match[3] or "").split(", ") if part)
        return ResumeMessage(int(match[1]), int(match[2]), {name: int(n) for n, name in counts})

    def group(self) -> list[int]:
        """Give the living processes of its group: the replicator may outlive the dataflow."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                stat = _stat(int(entry.name))
                if stat is not None and stat[1] == self.pid and stat[0] not in "ZX":
                    found.append(int(entry.name))
        return found

    @property
    def replicator(self) -> int | None:
        """Process ID of the replicator; it may outlive its dataflow."""
        return next((pid for pid in self.group() if _is_replicator(pid)), None)

    @property
    def status(self) -> Status | None:
        """The status that its replicator publishes; ``None`` where there is none yet."""
        for path in self.scratch.glob("*/status"):
            with suppress(OSError, ValueError):
                board = StatusBoard(path)
                try:
                    return board.read()
                finally:
                    board.close()
        return None

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP holds it."""
        stat = _stat(self.pid)
        return stat is not None and stat[0] == "T"

    def kill(self) -> None:
        """SIGKILL the dataflow alone."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(BOUND_SECONDS)

    def kill_group(self) -> None:
        """SIGKILL the dataflow and its replicator at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(BOUND_SECONDS)

    def send(self, a_signal: signal.Signals, *, to: int | None = None) -> None:
        """Send a signal to the dataflow.

        :arg to: Process ID of another process, in its place.
        """
        os.kill(self.pid if to is None else to, a_signal)

    def wait(self, seconds: float = BOUND_SECONDS) -> int:
        """Wait for the end of the dataflow.

        :returns: Its exit code.
        :raises TimeoutError: If it does not end in time.
        """
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {seconds} s:\n{self.err}") from None

    def wait_for_group(self) -> None:
        """Wait until the replicator has ended, too."""
        wait_until(lambda: not self.group(), "the process group ends")
