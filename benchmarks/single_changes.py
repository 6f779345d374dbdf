"""The flow of job (h): once each key has had an item, an epoch has one item.

The source first gives each key an item and rests until that is shipped and folded. Then it gives
one item an epoch. The engine asks it for the next item only when the epoch before is written
everywhere, so the time between two calls is the cost of an epoch.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from benchmarks.flows import Load, Tally, names_of, sums_of

WARM_UP_EPOCHS = 20
FILL = 10_000


class _SingleChangesPartition(StatefulSourcePartition[Any, int]):
    def __init__(self, load: Load, tally: Tally, at: int) -> None:
        self._load, self._tally, self._at = load, tally, at
        self._names = names_of(load.keys)
        self._called: list[float] = []

    def next_batch(self) -> list[tuple[str, int]]:
        at, load = self._at, self._load
        if at < load.keys:
            self._at = min(at + FILL, load.keys)
            return [(name, 1) for name in self._names[at : self._at]]
        if at == load.keys:
            time.sleep(1.0 + load.keys / 100_000)  # shipped and folded by then
        self._called.append(time.perf_counter())
        if at >= load.events:
            self._tell()
            raise StopIteration
        self._at += 1
        return [(self._names[at % load.keys], 1)]

    def _tell(self) -> None:
        times = self._called[WARM_UP_EPOCHS:]
        took = [1000 * (after - before) for before, after in pairwise(times)]
        self._tally.seen["median_ms"] = statistics.median(took)
        self._tally.seen["p99_ms"] = sorted(took)[int(0.99 * len(took))]

    def snapshot(self) -> int:
        return self._at


class _SingleChanges(FixedPartitionedSource[Any, int]):
    def __init__(self, load: Load, tally: Tally) -> None:
        self._given = (load, tally)

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> _SingleChangesPartition:
        return _SingleChangesPartition(*self._given, resume_state or 0)


def single_changes(load: Load, tally: Tally) -> Dataflow:
    """Build the flow: running sums, one item an epoch once each key has had one."""
    flow = Dataflow("sums")
    return sums_of(flow, op.input("items", flow, _SingleChanges(load, tally)), tally)
