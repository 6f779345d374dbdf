"""The same flow under the same faults with Bytewax's own recovery, where a fault can strike that.

Its recovery files are on a disk that no fault touches: stock recovery can't survive their loss.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

from bytewax.recovery import init_db_dir

from bytewax_redis_state.chaos.flow_process import FlowProcess
from bytewax_redis_state.chaos.flow_result import FlowResult
from bytewax_redis_state.chaos.result_reader import read_stock_result
from bytewax_redis_state.chaos.system import Program, SystemUnderTest
from bytewax_redis_state.chaos.trial import Trial
from bytewax_redis_state.recovery.records.manifest import Manifest

__all__ = ["STOCK", "StockSystem", "StockTrial"]

STOCK = Program((sys.executable, "-m", "bytewax.run"))
"""The command that runs the flow."""

_EPOCH = timedelta(seconds=1)  # the least that its command line takes


class StockSystem(SystemUnderTest):
    """A system whose flow keeps its state in recovery files; its Redis server stands idle."""

    @property
    def store(self) -> Path:
        """The recovery files."""
        return self.folder / "store"

    def open(self) -> None:
        """Make the files, and start everything."""
        self.store.mkdir()
        init_db_dir(str(self.store), self.topology.processes)  # type: ignore[no-untyped-call]
        super().open()

    def _options(self, process: int) -> list[object]:
        epoch = int(_EPOCH.total_seconds())
        return ["-r", self.store, "-s", epoch, "-b", 0, "-w", self.topology.workers]

    def manifest(self) -> Manifest | None:
        """Give ``None``: stock recovery has no manifest."""
        return None

    def progress(self) -> int:
        """Give the size of the output: a sign of life, whatever is committed."""
        return sum(path.stat().st_size for path in self.out.rglob("*.txt"))

    def _position(self) -> int:
        return self.input_limiter.limit

    def backlog(self) -> int:
        """Give 0: no row has to be shipped."""
        return 0

    def has_started(self) -> bool:
        """Tell whether a process of the newest start has written output."""
        return any(map(self._puts_out, self.execution.processes)) and self.execution.alive

    def _puts_out(self, process: FlowProcess) -> bool:
        folder = self.out / process.folder.name
        return any(path.stat().st_size for path in folder.glob("*.txt"))

    def has_claimed(self) -> bool:
        """Tell whether a start is under way: stock recovery shows no more than that."""
        return self.is_starting()

    def await_commits(self, count: int = 2) -> None:
        """Supervise until the flow goes on, and then for the length of some epochs."""
        super().await_commits(count)
        deadline = time.monotonic() + count * _EPOCH.total_seconds()
        self.tend_until(lambda: time.monotonic() > deadline, "epochs close")


class StockTrial(Trial):
    """A trial of stock recovery."""

    system_class = StockSystem

    def _read_result(self, system: SystemUnderTest) -> FlowResult:
        assert isinstance(system, StockSystem)
        return read_stock_result(system.store, system.out)
