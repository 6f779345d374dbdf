"""Flows that stock Bytewax runs on its own recovery, in processes of their own.

``windows`` ends; ``endless`` has windows open and waits; ``stuck`` stops one of two workers behind
a stateful step, so that the other writes rows of an epoch that never completes.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, Source, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, SessionWindower, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import TestingSink, TestingSource

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
ITEMS, KEYS = 60, 7
EVENTS = [(f"k{n % KEYS}", START + timedelta(seconds=n)) for n in range(ITEMS)]
HOUR = timedelta(hours=1)


class _Waiting(StatefulSourcePartition):
    """Gives all events, then nothing, and does not end."""

    def __init__(self, at: int) -> None:
        self._at = at

    def next_batch(self) -> list:
        at, self._at = self._at, self._at + 5
        if at >= ITEMS:
            Path(os.environ["STOCK_STARTED"]).touch()
        return EVENTS[at : at + 5]

    def next_awake(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(milliseconds=20)

    def snapshot(self) -> int:
        return self._at


class _WaitingSource(FixedPartitionedSource):
    def list_parts(self) -> list[str]:
        return ["events"]

    def build_part(self, step_id, for_part, resume_state) -> _Waiting:
        return _Waiting(resume_state or 0)


def _flow(source: Source, gap: timedelta, length: timedelta) -> Dataflow:
    flow = Dataflow("shop")
    events = op.input("in", flow, source)
    clock = EventClock(lambda at: at, timedelta(0))
    tumble = TumblingWindower(length=length, align_to=START)
    tumbled = win.collect_window("tumble", events, clock, tumble)
    sessions = win.collect_window("session", events, clock, SessionWindower(gap=gap))
    totals = op.stateful_map("total", events, lambda total, _at: ((total or 0) + 1,) * 2)
    for name, stream in (("a", tumbled.down), ("b", sessions.down), ("c", totals)):
        op.output(name, stream, TestingSink([]))
    return flow


def windows() -> Dataflow:
    source = TestingSource(EVENTS, batch_size=5)
    return _flow(source, gap=timedelta(seconds=3), length=timedelta(seconds=5))


def endless() -> Dataflow:
    return _flow(_WaitingSource(), gap=HOUR, length=HOUR)


class _StuckSink(DynamicSink):
    """Its part on the second worker never takes a key's second item."""

    def build(self, step_id, worker_index, worker_count) -> StatelessSinkPartition:
        return _Stuck(worker_index)


class _Stuck(StatelessSinkPartition):
    def __init__(self, worker: int) -> None:
        self._worker = worker

    def write_batch(self, items: list) -> None:
        if self._worker == 1 and any(total >= 2 for _key, total in items):
            time.sleep(600)


def stuck() -> Dataflow:
    flow = Dataflow("stuck")
    numbers = [(f"k{n % 20}", n) for n in range(200)]
    events = op.input("in", flow, TestingSource(numbers, batch_size=5))
    totals = op.stateful_map("total", events, lambda total, _n: ((total or 0) + 1,) * 2)
    op.output("out", totals, _StuckSink())
    return flow
