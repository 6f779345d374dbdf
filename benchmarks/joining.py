"""A flow of joins: two streams with the same keys in opposite order, so that half of them wait."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from benchmarks.flows import Batches, Load, Taker, Tally, names_of


def join(load: Load, tally: Tally) -> Dataflow:
    """Join two streams of half of the events each: a key waits for its other side, and is gone."""
    half = load.events // 2
    names = names_of(half)
    last = half - 1

    def take(items: list[Any]) -> None:
        tally.counted += sum(1 for _, (left, right) in items if left == right)

    flow = Dataflow("join")
    forth = Batches(lambda numbers: [(names[n], n) for n in numbers], half, load.parts)
    back = Batches(lambda numbers: [(names[last - n], last - n) for n in numbers], half, load.parts)
    joined = op.join("join", op.input("forth", flow, forth), op.input("back", flow, back))
    op.output("out", joined, Taker(tally, lambda: take))
    return flow


def check_joined(load: Load, tally: Tally) -> None:
    """Require that each key met itself, once."""
    tally.require("pairs", tally.counted, load.events // 2)
