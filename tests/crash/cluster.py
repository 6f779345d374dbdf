"""Processes of a dataflow, started and killed for real, each in a process group of its own.

A :class:`Member` is one dataflow process with the replicator beside it; a :class:`Cluster` is all
processes of one start. Everything here waits for conditions, with a bound.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNNER = HERE / "doomed_run.py"
REPLICATOR = b"bytewax_redis_state.recovery.replicator"
SECONDS = 60.0
_RESUMED = re.compile(
    r"(?:resumed|starting anew) at epoch (\d+), generation (\d+)(?:, keys: (.*), in [\d.]+ s)?"
)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait for a condition and hand back what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(0.005)
    return value


@dataclass(frozen=True)
class Resumed:
    """What a process said when its engine was about to start."""

    epoch: int
    generation: int
    keys: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.keys.values())


def _stat(pid: int) -> tuple[str, int] | None:
    """State and process group."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[2])


def _is_replicator(pid: int) -> bool:
    try:
        return REPLICATOR in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Member:
    """One dataflow process.

    :arg command: What to run.
    :arg environ: Whole environment.
    :arg folder: Gets what it says; one for each member.
    """

    def __init__(
        self, command: Sequence[object], environ: Mapping[str, str], folder: Path, scratch: Path
    ) -> None:
        folder.mkdir(parents=True)
        self.scratch = scratch
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def resumed(self) -> Resumed | None:
        match = _RESUMED.search(self.err)
        if match is None:
            return None
        counts = (part.split(" ", 1) for part in (match[3] or "").split(", ") if part)
        return Resumed(int(match[1]), int(match[2]), {name: int(n) for n, name in counts})

    def group(self) -> list[int]:
        """Give all that lives of the process group, also without its leader."""
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
    def is_stopped(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat[0] == "T"

    def kill(self) -> None:
        """SIGKILL the dataflow alone."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(SECONDS)

    def kill_group(self) -> None:
        """SIGKILL the dataflow and its replicator at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(SECONDS)

    def send(self, a_signal: signal.Signals, *, to: int | None = None) -> None:
        os.kill(self.pid if to is None else to, a_signal)

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for the dataflow's end; its exit code."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.err}") from None

    def wait_for_group(self) -> None:
        """Wait until the replicator has gone too."""
        wait_until(lambda: not self.group(), "the process group is gone")


class Cluster:
    """All processes of one start."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._again: list[Callable[[], Member]] = []

    def add(self, make: Callable[..., Member], folder: Path, at_step: str) -> None:
        """Start one more process; ``make`` takes a folder and ``at_step``."""
        self.members.append(make(folder=folder, at_step=at_step))
        times = count(1)
        self._again.append(
            lambda: make(folder=folder.with_name(f"{folder.name}-again-{next(times)}"))
        )

    def restart(self, process: int) -> None:
        """Start a process that died once more, as it was but not doomed."""
        self.members[process] = self._again[process]()

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    @property
    def said(self) -> str:
        return "\n".join(f"-- process {i}\n{m.err}" for i, m in enumerate(self.members))

    @property
    def alive(self) -> bool:
        return all(member.alive for member in self.members)

    def wait_resumed(self) -> Resumed:
        """Wait until every process is about to start its engine; keys are of all together."""
        wait_until(
            lambda: all(m.resumed for m in self.members) or not self.alive, "all processes resume"
        )
        found = [member.resumed for member in self.members]
        assert all(found), f"a process ended before it resumed:\n{self.said}"
        first = found[0]
        assert {(r.epoch, r.generation) for r in found} == {(first.epoch, first.generation)}
        keys: dict[str, int] = {}
        for one in found:
            for name, found_keys in one.keys.items():
                keys[name] = keys.get(name, 0) + found_keys
        return Resumed(first.epoch, first.generation, keys)

    def kill(self) -> None:
        """SIGKILL every dataflow, and no replicator."""
        for member in self.members:
            member.popen.send_signal(signal.SIGKILL)
        for member in self.members:
            member.wait()

    def kill_groups(self) -> None:
        """SIGKILL everything."""
        for member in self.members:
            with suppress(ProcessLookupError):
                os.killpg(member.pid, signal.SIGKILL)
        for member in self.members:
            member.wait()

    def wait(self, seconds: float = SECONDS) -> list[int]:
        deadline = time.monotonic() + seconds
        return [member.wait(max(deadline - time.monotonic(), 0.1)) for member in self.members]

    def lose_scratch(self) -> None:
        """Delete every file of this start, as a machine that is gone would."""
        for member in self.members:
            shutil.rmtree(member.scratch, ignore_errors=True)


def start_member(
    flow: Path,
    *,
    folder: Path,
    environ: Mapping[str, str],
    options: Sequence[object],
    at_step: str = "",
    bug: str = "",
) -> Member:
    """Start one process of a dataflow.

    :arg at_step: ``kill:STEP`` or ``stop:STEP``: what the process does to itself there.
    :arg bug: Planted bug, see ``planted.py``.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BYTEWAX_", "CRASH_"))}
    clean.update(environ)
    program: list[object] = ["-m", "bytewax_redis_state.run"]
    if at_step or bug:
        program = [RUNNER]
        clean.update(CRASH_AT_STEP=at_step, CRASH_BUG=bug)
    scratch = folder / "scratch"
    command = [sys.executable, *program, f"{flow}:flow", "--scratch", scratch, *options]
    return Member(command, clean, folder, scratch)
