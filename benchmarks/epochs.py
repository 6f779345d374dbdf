"""Job (h): what it costs to close an epoch in which one key changed, with so many keys in state.

The source first gives each key an item, rests until what that caused is over, and then gives one
item an epoch. It is asked for the next item only when the epoch before is written everywhere, so
the time between two calls is what an epoch costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from benchmarks.contest import Contender, Contest, growth, times_as_fast
from benchmarks.flow_run import OURS, STOCK, FlowRun, place_for, run_apart
from benchmarks.flows import Load, Tally, names_of, sums_of
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied

EPOCHS, WARM_UP_EPOCHS = 100, 20
FILL = 10_000
GROWTH_AT_MOST = 1.5
_FEW = 3
_BOUND = 300.0
# Rival to keys to seconds a run, about.
_SECONDS = {
    OURS: {1_000: 2.5, 10_000: 2.5, 100_000: 5.0, 1_000_000: 18.0},
    STOCK: {1_000: 2.0, 10_000: 3.0, 100_000: 14.0},
}


class _Part(StatefulSourcePartition[Any, int]):
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


class _Source(FixedPartitionedSource[Any, int]):
    def __init__(self, load: Load, tally: Tally) -> None:
        self._given = (load, tally)

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(*self._given, resume_state or 0)


def single_changes(load: Load, tally: Tally) -> Dataflow:
    """Build the flow: running sums, one item an epoch once each key has had one."""
    flow = Dataflow("sums")
    return sums_of(flow, op.input("items", flow, _Source(load, tally)), tally)


def _run(rival: str, load: Load, url: str) -> Run:
    with emptied(url), place_for(rival) as place:
        told = run_apart(FlowRun(rival, "epochs", load, url, place), _BOUND)
    return Run(round(told["median_ms"], 4), {"p99_ms": round(told["p99_ms"], 3)})


@contextmanager
def _contenders(scale: float) -> Iterator[list[Contender]]:
    epochs = WARM_UP_EPOCHS + max(20, int(EPOCHS * min(1.0, 10 * scale)))
    with benchmark_server() as url:
        made = []
        for rival, sizes in _SECONDS.items():
            for size in sizes:
                keys = max(10, int(size * scale))
                load = Load(events=keys + epochs, keys=keys, hot=0, epoch=0.0)
                run = partial(_run, rival, load, url)
                made.append(Contender(name_of(rival, size), run, {"series": rival, "keys": keys}))
        yield made


def name_of(rival: str, keys: int) -> str:
    """Name a rival with so many keys."""
    return f"{rival}, {keys // 1000:,}k keys"


def contests(scale: float) -> list[Contest]:
    """Give the contest: all sizes in turn."""
    plan = {
        name_of(rival, keys): (seconds, _FEW)
        for rival, sizes in _SECONDS.items()
        for keys, seconds in sizes.items()
    }
    figures = [
        growth(name_of(OURS, 1_000_000), name_of(OURS, 1_000), GROWTH_AT_MOST),
        times_as_fast(name_of(OURS, 100_000), name_of(STOCK, 100_000)),
    ]
    note = f"A run's value is the median of {EPOCHS} epochs."
    return [
        Contest(
            "h", "one changed key", "an epoch in which one key changed, running sums",
            partial(_contenders, scale), plan, figures, unit="ms", notes=[note], scale=scale,
        )
    ]  # fmt: skip
