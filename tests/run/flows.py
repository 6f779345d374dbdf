"""Flows for the runner; the environment says what they do."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.operators.windowing import EventClock, SessionWindower, TumblingWindower
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from bytewax_redis_state import retain

ITEMS = int(os.environ.get("ITEMS", "30"))
PAUSE = timedelta(seconds=float(os.environ.get("PAUSE", "0.001")))
PARTS = os.environ.get("PARTS", "a b").split()
START = datetime(2024, 1, 1, tzinfo=timezone.utc)


class _Numbers(StatefulSourcePartition):
    def __init__(self, number):
        self._number = number or 0
        self._awake = None

    def next_batch(self):
        if self._number >= ITEMS:
            raise StopIteration
        self._number += 1
        self._awake = datetime.now(timezone.utc) + PAUSE
        return [self._number]

    def next_awake(self):
        return self._awake

    def snapshot(self):
        return self._number


class Numbers(FixedPartitionedSource):
    """Each partition counts to ITEMS, pausing after each."""

    def list_parts(self):
        return PARTS

    def build_part(self, step_id, for_part, resume_state):
        return _Numbers(resume_state)


class Opaque:
    """A value that only pickle can hold."""

    def __init__(self, total):
        self.total = total

    def __reduce__(self):
        return Opaque, (self.total,)


def get_flow(flow_id="numbers", step="sum"):
    flow = Dataflow(flow_id)
    numbers = op.input("in", flow, Numbers())
    keyed = op.key_on("key", numbers, lambda n: f"k{n % 5}")

    def add(total, number):
        if number == int(os.environ.get("FAIL_AT", "-1")):
            raise ValueError("the user's own mistake")
        total = (total or 0) + number
        return total, total

    sums = op.stateful_map(step, keyed, add)
    op.output("out", sums, StdOutSink())
    return flow


def _deaf():
    """Interrupt this process, and do as code does that lets no exception out."""
    number = signal.Signals[os.environ["NUMBER"]]
    try:
        os.kill(os.getpid(), number)
        time.sleep(10)
    except KeyboardInterrupt:
        pass


class _DeafNumbers(Numbers):
    def list_parts(self):
        if os.environ["DEAF"] == "start":
            _deaf()
        return super().list_parts()


def deaf():
    """Lose the interrupt that is sent while it is imported, while it starts or while it runs."""
    if os.environ["DEAF"] == "import":
        _deaf()
    flow = Dataflow("numbers")
    numbers = op.input("in", flow, _DeafNumbers())

    def key(number):
        if number == 5 and os.environ["DEAF"] == "run":
            _deaf()
        return f"k{number % 5}"

    def add(total, number):
        return (total or 0) + number, number

    op.output("out", op.stateful_map("sum", op.key_on("key", numbers, key), add), StdOutSink())
    return flow


def pickled():
    flow = Dataflow("pickled")
    keyed = op.key_on("key", op.input("in", flow, Numbers()), lambda n: f"k{n % 5}")

    def add(held, number):
        held = Opaque((held.total if held else 0) + number)
        return held, held.total

    op.output("out", op.stateful_map("sum", keyed, add), StdOutSink())
    return flow


def windows():
    """One window of an hour, which nothing but the end of input closes."""
    flow = Dataflow("windows")
    numbers = op.input("in", flow, Numbers())
    # A frozen clock: the watermark does not move with the time of day.
    clock = EventClock(
        lambda n: START + timedelta(milliseconds=n),
        wait_for_system_duration=timedelta(hours=1),
        now_getter=lambda: START,
        to_system_utc=lambda _time: None,
    )
    windower = TumblingWindower(length=timedelta(hours=1), align_to=START)
    out = win.count_window("count", numbers, clock, windower, lambda n: f"k{n % 5}")
    op.output("out", out.down, StdOutSink())
    return flow


class _Visitors(StatefulSourcePartition):
    """VISITORS come once each, many at a time; then the source stays open for OPEN seconds."""

    def __init__(self, number):
        self._number = number or 0
        self._awake = None
        self._closes_at = None

    def next_batch(self):
        numbers = range(self._number, int(os.environ.get("VISITORS", "300")))[:1000]
        self._number += len(numbers)
        now = datetime.now(timezone.utc)
        if not numbers:
            if self._closes_at is None:
                self._closes_at = now + timedelta(seconds=float(os.environ.get("OPEN", "60")))
            elif now > self._closes_at:
                raise StopIteration
            self._awake = now + timedelta(seconds=0.02)  # an epoch closes when a source is asked
        return [(f"v{number}", now) for number in numbers]

    def next_awake(self):
        return self._awake

    def snapshot(self):
        return self._number


class Visitors(FixedPartitionedSource):
    """One partition of them."""

    def list_parts(self):
        return ["all"]

    def build_part(self, step_id, for_part, resume_state):
        return _Visitors(resume_state)


def visitors():
    """Each visitor in one session, in one tumbling window and in one sum."""
    flow = Dataflow("visitors")
    came = op.input("in", flow, Visitors())
    clock = EventClock(lambda at: at, wait_for_system_duration=timedelta(0))
    gap = timedelta(seconds=0.2)
    align = datetime(2024, 1, 1, tzinfo=timezone.utc)
    builder = (int, lambda count, _at: count + 1, lambda left, right: left + right)
    visit = win.fold_window("visit", came, clock, SessionWindower(gap), *builder)
    tick = win.fold_window("tick", came, clock, TumblingWindower(gap, align), *builder)
    seen = op.stateful_map("seen", came, lambda count, _: ((count or 0) + 1, count))
    every = op.merge("every", visit.down, tick.down, seen)
    # What nobody reads would fill the pipe.
    told = op.filter("told", every, lambda _item: "QUIET" not in os.environ)
    op.output("out", told, StdOutSink())
    return flow


class _Counting(StatefulSinkPartition):
    def __init__(self, count):
        print("sink resumes at", count, flush=True)
        self._count = count or 0

    def write_batch(self, items):
        self._count += len(items)

    def snapshot(self):
        return self._count


class Counting(FixedPartitionedSink):
    """Two partitions, each of which counts what it gets."""

    def list_parts(self):
        return ["0", "1"]

    def part_fn(self, item_key):
        return int(item_key[1:])

    def build_part(self, step_id, for_part, resume_state):
        return _Counting(resume_state)


def counted():
    """Only source and sink have state."""
    flow = Dataflow("counted")
    numbers = op.input("in", flow, Numbers())
    op.output("out", op.key_on("key", numbers, lambda n: f"k{n % 5}"), Counting())
    return flow


def marked():
    """The flow says itself how long its sums are kept."""
    flow = Dataflow("marked")
    sums = op.stateful_map("sum", op.input("in", flow, Visitors()), lambda n, _: ((n or 0) + 1, n))
    op.output("out", retain(sums, timedelta(hours=3)), StdOutSink())
    return flow


class _Countdown(StatelessSourcePartition):
    def __init__(self):
        self._left = 20

    def next_batch(self):
        if not self._left:
            raise StopIteration
        self._left -= 1
        return [self._left]


class Countdown(DynamicSource):
    def build(self, step_id, worker_index, worker_count):
        return _Countdown()


def stateless():
    flow = Dataflow("stateless")
    op.output("out", op.input("in", flow, Countdown()), StdOutSink())
    return flow


flow = get_flow()
