"""The flow that the benchmarks run: running sums per key, from a source that resumes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

BATCH = 1000


@dataclass(frozen=True)
class Load:
    """What a job feeds to the flow.

    :arg events: Items in all.
    :arg keys: Distinct keys; the first round visits each once.
    :arg hot: Keys that the items after the first round go to; 0 for all.
    :arg epoch: Seconds between two commits.
    """

    events: int
    keys: int
    hot: int
    epoch: float


class _Items(StatefulSourcePartition):
    def __init__(self, load: Load, names: list[str], at: int) -> None:
        self._load = load
        self._names = names
        self._at = at

    def next_batch(self) -> list[tuple[str, int]]:
        at, load = self._at, self._load
        if at >= load.events:
            raise StopIteration
        self._at = min(load.events, at + BATCH)
        among = load.hot if load.hot and at >= load.keys else load.keys
        return [(self._names[number % among], 1) for number in range(at, self._at)]

    def snapshot(self) -> int:
        return self._at


class _Source(FixedPartitionedSource):
    def __init__(self, load: Load) -> None:
        self._load = load
        self._names = [f"key-{number:07d}" for number in range(load.keys)]

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Items:
        return _Items(self._load, self._names, resume_state or 0)


class _Watch(StatelessSinkPartition):
    def __init__(self, on_first: Callable[[float], None]) -> None:
        self._on_first: Callable[[float], None] | None = on_first

    def write_batch(self, items: list[object]) -> None:
        if self._on_first is not None:
            self._on_first(time.time())
            self._on_first = None


class _Sink(DynamicSink):
    def __init__(self, on_first: Callable[[float], None]) -> None:
        self._on_first = on_first

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Watch:
        return _Watch(self._on_first)


def sums(load: Load, on_first: Callable[[float], None] = lambda at: None) -> Dataflow:
    """Build the flow.

    :arg load: What goes in.
    :arg on_first: Gets the time of the first item that comes out.
    """
    flow = Dataflow("sums")
    items = op.input("items", flow, _Source(load))
    totals = op.stateful_map("sum", items, lambda total, n: ((total or 0) + n,) * 2)
    op.output("out", totals, _Sink(on_first))
    return flow
