"""A flow with a step `score`, which becomes another step of that name, or another operator.

Settings, from the environment: ITEMS, STEP (see :data:`STEPS`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow, operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream

ITEMS = int(os.environ.get("ITEMS", "2"))
STEP = os.environ.get("STEP", "amount")
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


class _Part(StatefulSourcePartition[tuple[str, int], int]):
    def __init__(self, number: int):
        self._number = number

    def next_batch(self) -> list[tuple[str, int]]:
        if self._number >= ITEMS:
            raise StopIteration
        self._number += 1
        return [("ann", 100)]

    def snapshot(self) -> int:
        return self._number


class _Source(FixedPartitionedSource[tuple[str, int], int]):
    def list_parts(self) -> list[str]:
        return ["part"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(resume_state or 0)


def _total(state: int | None, value: int) -> tuple[int, int]:
    return (state or 0) + value, (state or 0) + value


@operator
def score(step_id: str, up: KeyedStream[int]) -> KeyedStream[int]:
    """Sum amounts, or count visits: an operator of the user's, and what is inside it."""
    if STEP == "visits":
        return op.stateful_map("visits", up, lambda state, _value: _total(state, 1))
    return op.stateful_map("amount", up, _total)


def _windowed(up: Any) -> Any:
    clock = win.EventClock(lambda _value: START, timedelta(0))
    windower = win.TumblingWindower(length=timedelta(hours=1), align_to=START)
    return win.fold_window(
        "score", up, clock, windower, int, lambda a, b: a + b, lambda a, b: a + b
    ).down


STEPS: dict[str, Callable[[Any], Any]] = {
    "amount": lambda up: score("score", up),
    "visits": lambda up: score("score", up),
    "stateful_map": lambda up: op.stateful_map("score", up, _total),
    "stateful_flat_map": lambda up: op.stateful_flat_map(
        "score", up, lambda state, value: (_total(state, value)[0], [value])
    ),
    "count_final": lambda up: op.count_final("score", up, lambda item: item[0]),
    "fold_final": lambda up: op.fold_final("score", up, int, lambda a, b: a + b),
    "collect": lambda up: op.collect("score", up, timedelta(seconds=10), 2),
    "join": lambda up: op.join("score", up, up),
    "fold_window": _windowed,
}


def get_flow() -> Dataflow:
    """Make the flow."""
    flow = Dataflow("reshaped")
    items = op.input("in", flow, _Source())
    op.output("out", op.map("text", STEPS[STEP](items), str), StdOutSink())
    return flow


flow = get_flow()
