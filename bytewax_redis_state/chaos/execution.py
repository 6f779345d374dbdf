"""One start of a dataflow on all its processes: an execution, as Bytewax calls it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from bytewax_redis_state.chaos.flow_process import FlowProcess, ResumeMessage
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS, wait_until

__all__ = ["Execution"]


class Execution:
    """The processes of one start, in the order of their numbers."""

    def __init__(self) -> None:
        self.processes: list[FlowProcess] = []
        self._again: list[Callable[[], FlowProcess]] = []

    def add(self, make: Callable[..., FlowProcess], folder: Path, at_step: str) -> None:
        """Start one more process.

        :arg make: Starts it, also again; takes ``folder`` and ``at_step``.
        :arg at_step: The step at which it kills or stops itself; empty for none.
        """
        self.processes.append(make(folder=folder, at_step=at_step))
        times = count(1)
        self._again.append(
            lambda: make(folder=folder.with_name(f"{folder.name}-again-{next(times)}"))
        )

    def restart(self, number: int) -> None:
        """Start a process that has ended again: with the same options, but without its step."""
        self.processes[number] = self._again[number]()

    def __getitem__(self, number: int) -> FlowProcess:
        return self.processes[number]

    @property
    def said(self) -> str:
        """The standard error of all processes so far."""
        return "\n".join(f"-- process {i}\n{m.err}" for i, m in enumerate(self.processes))

    @property
    def alive(self) -> bool:
        """Whether all processes live."""
        return all(process.alive for process in self.processes)

    @property
    def has_resumed(self) -> bool:
        """Whether the engines of all processes are about to start, or have started."""
        return all(process.resumed for process in self.processes)

    def wait_resumed(self) -> ResumeMessage:
        """Wait until every process is about to start its engine.

        :returns: Their message; its keys are the sum over all processes.
        """
        wait_until(lambda: self.has_resumed or not self.alive, "all processes resume")
        found = [process.resumed for process in self.processes]
        assert all(found), f"a process ended before it resumed:\n{self.said}"
        first = found[0]
        assert first is not None
        keys: dict[str, int] = {}
        for one in found:
            assert one is not None
            assert (one.epoch, one.generation) == (first.epoch, first.generation)
            for name, found_keys in one.keys.items():
                keys[name] = keys.get(name, 0) + found_keys
        return ResumeMessage(first.epoch, first.generation, keys)

    def kill(self) -> None:
        """SIGKILL every dataflow, but no replicator."""
        for process in self.processes:
            process.popen.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def kill_groups(self) -> None:
        """SIGKILL every dataflow and every replicator."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def wait(self, seconds: float = BOUND_SECONDS) -> list[int]:
        """Wait for the end of all dataflows.

        :returns: Their exit codes.
        """
        deadline = time.monotonic() + seconds
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]

    def lose_scratch(self) -> None:
        """Delete every scratch file of this start, as the loss of its machine would."""
        for process in self.processes:
            shutil.rmtree(process.scratch, ignore_errors=True)
