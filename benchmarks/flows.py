"""The flow that most benchmarks run: running sums per key, from a source that resumes.

A :class:`Load` is the input, a :class:`Tally` checks the output: a wrong output is an error, so
that no rival wins by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

BATCH = 1000


@dataclass(frozen=True)
class Load:
    """The input of a flow.

    :arg events: Items in all.
    :arg keys: Distinct keys; the first round visits each once.
    :arg hot: Keys that the items after the first round go to; 0 for all.
    :arg epoch: Seconds between two commits.
    :arg parts: Partitions of the source.
    :arg shuffled: Whether event time is out of order.
    :arg past: Whether event time is long past; else it begins now.
    """

    events: int
    keys: int
    hot: int
    epoch: float
    parts: int = 1
    shuffled: bool = False
    past: bool = False


class WrongResultError(Exception):
    """The output of a flow does not fit its input."""


@dataclass
class Tally:
    """The output of a flow, and the time of its first item.

    :arg on_first: Gets the time of the first item.
    :arg totals: Key to last total, of each worker.
    :arg counted: Number of items that came out, or that a window counted.
    :arg seen: Other measurements of the flow.
    """

    on_first: Callable[[float], None] = lambda at: None
    totals: list[dict[str, Any]] = field(default_factory=list)
    counted: int = 0
    seen: dict[str, Any] = field(default_factory=dict)

    def require(self, what: str, found: float, wanted: float) -> None:
        """Compare.

        :raises WrongResultError: If they differ.
        """
        if found != wanted:
            raise WrongResultError(f"{what}: {found:,} came out, {wanted:,} went in")


class _BatchesPartition(StatefulSourcePartition[Any, int]):
    """Every ``parts``-th batch of a stream; the state is the first number of the next batch."""

    def __init__(self, source: Batches, at: int) -> None:
        self._make, self._events = source.make, source.events
        self._step, self._at = source.parts * BATCH, at

    def next_batch(self) -> list[Any]:
        at = self._at
        if at >= self._events:
            raise StopIteration
        self._at += self._step
        return self._make(range(at, min(at + BATCH, self._events)))

    def snapshot(self) -> int:
        return self._at


class Batches(FixedPartitionedSource[Any, int]):
    """A stream of numbered items.

    :arg make: Makes the items of a range of numbers.
    :arg events: How many there are.
    :arg parts: Into how many partitions they are split, batch by batch.
    """

    def __init__(self, make: Callable[[range], list[Any]], events: int, parts: int = 1) -> None:
        self.make, self.events, self.parts = make, events, parts

    def list_parts(self) -> list[str]:
        return [str(part) for part in range(self.parts)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> _BatchesPartition:
        return _BatchesPartition(
            self, int(for_part) * BATCH if resume_state is None else resume_state
        )


class _Taken(StatelessSinkPartition[Any]):
    def __init__(self, tally: Tally, take: Callable[[list[Any]], None]) -> None:
        self._on_first: Callable[[float], None] | None = tally.on_first
        self._take = take

    def write_batch(self, items: list[Any]) -> None:
        if self._on_first is not None:
            self._on_first(time.time())
            self._on_first = None
        self._take(items)


class Taker(DynamicSink[Any]):
    """Hands the output to a tally.

    :arg make: Makes the function that takes the batches of a worker.
    """

    def __init__(self, tally: Tally, make: Callable[[], Callable[[list[Any]], None]]) -> None:
        self._tally, self._make = tally, make

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Taken:
        return _Taken(self._tally, self._make())


def names_of(keys: int) -> list[str]:
    """Name keys."""
    return [f"key-{number:07d}" for number in range(keys)]


def _last_totals(tally: Tally) -> Callable[[], Callable[[list[Any]], None]]:
    def make() -> Callable[[list[Any]], None]:
        last: dict[str, Any] = {}
        tally.totals.append(last)
        return last.update  # the last total of each key, at the price of one call a batch

    return make


def sums(load: Load, tally: Tally | None = None) -> Dataflow:
    """Build the flow.

    :arg load: What goes in.
    :arg tally: Gets the last total of each key.
    """
    names = names_of(load.keys)
    among, hot, first_round = load.keys, load.hot, load.keys

    def make(numbers: range) -> list[tuple[str, int]]:
        modulus = hot if hot and numbers[0] >= first_round else among
        return [(names[number % modulus], 1) for number in numbers]

    tally = tally or Tally()
    flow = Dataflow("sums")
    return sums_of(flow, op.input("items", flow, Batches(make, load.events, load.parts)), tally)


def sums_of(flow: Dataflow, items: op.KeyedStream[int], tally: Tally) -> Dataflow:
    """Keep a running sum of each key's items."""
    totals = op.stateful_map("sum", items, lambda total, n: ((total or 0) + n,) * 2)
    op.output("out", totals, Taker(tally, _last_totals(tally)))
    return flow


def check_sums(load: Load, tally: Tally) -> None:
    """Require that every item of a run from the beginning is in the totals, once."""
    found = sum(sum(totals.values()) for totals in tally.totals)
    tally.require("sums", found, load.events)
