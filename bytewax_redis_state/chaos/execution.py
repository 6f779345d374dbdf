"""All processes of one start of a dataflow."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from bytewax_redis_state.chaos.member import SECONDS, Member, Resumed, wait_until

__all__ = ["Cluster"]


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
        """What all of them have said on standard error."""
        return "\n".join(f"-- process {i}\n{m.err}" for i, m in enumerate(self.members))

    @property
    def alive(self) -> bool:
        """Whether all of them live."""
        return all(member.alive for member in self.members)

    @property
    def has_resumed(self) -> bool:
        """Whether the engines of all are about to start, or have started."""
        return all(member.resumed for member in self.members)

    def wait_resumed(self) -> Resumed:
        """Wait until every process is about to start its engine.

        :returns: What they said; the keys are of all together.
        """
        wait_until(lambda: self.has_resumed or not self.alive, "all processes resume")
        found = [member.resumed for member in self.members]
        assert all(found), f"a process ended before it resumed:\n{self.said}"
        first = found[0]
        assert first is not None
        keys: dict[str, int] = {}
        for one in found:
            assert one is not None
            assert (one.epoch, one.generation) == (first.epoch, first.generation)
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
        """Wait for the end of all.

        :returns: Their exit codes.
        """
        deadline = time.monotonic() + seconds
        return [member.wait(max(deadline - time.monotonic(), 0.1)) for member in self.members]

    def lose_scratch(self) -> None:
        """Delete every file of this start, as a machine that is gone would."""
        for member in self.members:
            shutil.rmtree(member.scratch, ignore_errors=True)
