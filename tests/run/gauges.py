"""A flow with one window step, to be resumed with other windows, or where the clock is another one.

Each key has a source partition of its own; its values are ten minutes apart, and the watermark is
45 minutes behind the newest one: what closes when does not depend on how fast a run is.

Settings, from the environment: ITEMS (values of each key), HOLD (the value after which no more
come, while the source stays open), WINDOWER, LENGTH (seconds), ORDERED (empty for the order of
arrival), SKEW (seconds by which the system's clock is behind).
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

ITEMS = int(os.environ.get("ITEMS", "18"))
HOLD = int(os.environ.get("HOLD", "0"))
LENGTH = timedelta(seconds=int(os.environ.get("LENGTH", "3600")))
ORDERED = bool(os.environ.get("ORDERED", "yes"))
SKEW = timedelta(seconds=float(os.environ.get("SKEW", "0")))
WINDOWER = os.environ.get("WINDOWER", "tumbling")

KEYS = ("a", "b", "c")
START = datetime(2026, 11, 1, tzinfo=timezone.utc)
ALIGN_TO = datetime(1970, 1, 1, tzinfo=timezone.utc)
TICK = timedelta(minutes=10)
WAIT = 4.5 * TICK
GAP = 2 * TICK

Value = tuple[datetime, int]


def value(number: int) -> Value:
    """Make a value; every seventh comes half an hour after the one before, not ten minutes."""
    return START + (number + 2 * (number // 7)) * TICK, number


def now() -> datetime:
    """Tell the time of a system whose clock is behind."""
    return datetime.now(timezone.utc) - SKEW


class _Part(StatefulSourcePartition[tuple[str, Value], int]):
    def __init__(self, key: str, number: int):
        self._key = key
        self._number = number
        self._awake: datetime | None = None

    def next_batch(self) -> list[tuple[str, Value]]:
        if self._number == (HOLD or ITEMS):
            if not HOLD:
                raise StopIteration
            self._awake = datetime.now(timezone.utc) + timedelta(seconds=0.1)
            return []
        self._number += 1
        return [(self._key, value(self._number))]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._number


class _Source(FixedPartitionedSource[tuple[str, Value], int]):
    def list_parts(self) -> list[str]:
        return [*KEYS]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(for_part, resume_state or 0)


def windower() -> Any:
    """Make the windower of the step."""
    if WINDOWER == "session":
        return win.SessionWindower(gap=GAP)
    if WINDOWER == "sliding":
        return win.SlidingWindower(length=LENGTH, offset=LENGTH / 2, align_to=ALIGN_TO)
    return win.TumblingWindower(length=LENGTH, align_to=ALIGN_TO)


def line(key: str, window_id: int, numbers: list[int]) -> str:
    """Make the line that a window puts out."""
    return f"{key} {window_id} {numbers}"


def get_flow() -> Dataflow:
    """Make the flow."""
    flow = Dataflow("gauges")
    items = op.input("in", flow, _Source())
    clock = win.EventClock(lambda each: each[0], WAIT, now_getter=now)
    windows = win.collect_window("windows", items, clock, windower(), ordered=ORDERED)
    text = op.map(
        "text",
        windows.down,
        lambda item: line(item[0], item[1][0], [number for _at, number in item[1][1]]),
    )
    op.output("out", text, StdOutSink())
    return flow


flow = get_flow()
