"""The dataflows that the contract tests run in a child process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    AbortExecution,
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition

Record = Callable[[Any], None]


def soon(milliseconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(milliseconds=milliseconds)


class Discard(DynamicSink):
    """Drop everything."""

    def build(self, _step_id, _worker_index, _worker_count):
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition):
    def write_batch(self, items):
        pass


# --- Epochs, commits, backpressure -------------------------------------------------------------


class EpochSource(FixedPartitionedSource):
    """Each partition counts its epochs, asks the gate at the start of each, and ends after one."""

    def __init__(self, gate, parts, first_epoch, last_epoch, keys):
        self._gate = gate
        self._parts = parts
        self._args = (first_epoch, last_epoch, keys)

    def list_parts(self):
        return [f"source{part}" for part in range(self._parts)]

    def build_part(self, _step_id, for_part, _resume_state):
        return _EpochPartition(Client(self._gate, "AF_UNIX"), for_part, *self._args)


class _EpochPartition(StatefulSourcePartition):
    def __init__(self, gate, part, first_epoch, last_epoch, keys):
        self._gate = gate
        self._part = part
        self._epoch = first_epoch
        self._last_epoch = last_epoch
        self._keys = keys
        self._begun = False
        self._count = 0

    def next_batch(self):
        if not self._begun:
            self._begun = True
            self._gate.send((self._part, self._epoch))
            self._gate.recv()
        if self._epoch > self._last_epoch:
            raise StopIteration
        self._count += 1
        return [(f"key{self._count % self._keys}", 1)]

    def next_awake(self):
        return soon(2)

    def snapshot(self):
        self._epoch += 1
        self._begun = False
        return self._epoch


class SumLogic(StatefulBatchLogic):
    """A sum that adds a thousand at EOF, so that on_eof changes the state."""

    def __init__(self, total):
        self._total = total or 0

    def on_batch(self, values):
        self._total += sum(values)
        return [self._total], False

    def on_eof(self):
        self._total += 1000
        return [], False

    def snapshot(self):
        return self._total


def epochs(_record, gate, parts, first_epoch, last_epoch, keys):
    """Two stateful steps behind sources that report their epochs."""
    flow = Dataflow("epochs")
    items = op.input("inp", flow, EpochSource(gate, parts, first_epoch, last_epoch, keys))
    sums = op.stateful_batch("sum", items, SumLogic)
    again = op.stateful_batch("again", sums, SumLogic)
    op.output("out", again, Discard())
    return flow


# --- Ends ----------------------------------------------------------------------------------------


class EndlessSource(FixedPartitionedSource):
    """Emit an item every few milliseconds until somebody stops the flow."""

    def __init__(self, record, started, abort_after, parts):
        self._args = (record, started, abort_after)
        self._parts = parts

    def list_parts(self):
        return [f"source{part}" for part in range(self._parts)]

    def build_part(self, _step_id, for_part, _resume_state):
        return _EndlessPartition(for_part, *self._args)


class _EndlessPartition(StatefulSourcePartition):
    def __init__(self, part, record, started, abort_after):
        self._part = part
        self._record = record
        self._started = Path(started)
        self._abort_after = abort_after
        self._count = 0

    def next_batch(self):
        self._count += 1
        if self._part == "source0" and self._count == self._abort_after:
            self._record("abort")
            raise AbortExecution
        if self._count == 20:
            (self._started / f"{self._part}.{os.getpid()}").touch()
        return [(f"key{self._count % 8}", 1)]

    def next_awake(self):
        return soon(2)

    def snapshot(self):
        return self._count

    def close(self):
        self._record(f"close {self._part}")


class RecordedLogic(StatefulBatchLogic):
    """Count, and record on_eof."""

    def __init__(self, record):
        self._record = record

    def on_batch(self, _values):
        return [], False

    def on_eof(self):
        self._record("on_eof")
        return [], False

    def snapshot(self):
        return None


def endless(record, started, abort_after=None, parts=1):
    """A flow that runs until it is stopped."""
    flow = Dataflow("endless")
    items = op.input("inp", flow, EndlessSource(record, started, abort_after, parts))
    seen = op.stateful_batch("seen", items, lambda _state: RecordedLogic(record))
    op.output("out", seen, Discard())
    return flow


def failing(record, started, fail_on, parts=1):
    """An endless flow whose first partition raises when the file appears."""
    flow = Dataflow("failing")
    items = op.input("inp", flow, EndlessSource(record, started, None, parts))

    def fail(item):
        if item[0] == "key0" and Path(fail_on).exists():
            raise ValueError("as asked")
        return item

    items = op.map("fail", items, fail)
    seen = op.stateful_batch("seen", items, lambda _state: RecordedLogic(record))
    op.output("out", seen, Discard())
    return flow
