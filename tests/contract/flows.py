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
from bytewax.dataflow import Dataflow, Stream, operator
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


# --- Resume --------------------------------------------------------------------------------------


class OnceSource(FixedPartitionedSource):
    """One partition that emits its batches, one per epoch, from the first on."""

    def __init__(self, record, batches):
        self._record = record
        self._batches = batches

    def list_parts(self):
        return ["once"]

    def build_part(self, _step_id, _for_part, resume_state):
        self._record(["source", resume_state])
        return _OncePartition(self._batches, resume_state or 0)


class _OncePartition(StatefulSourcePartition):
    def __init__(self, batches, position):
        self._batches = batches
        self._position = position
        self._sent = False

    def next_batch(self):
        if self._position >= len(self._batches):
            raise StopIteration
        if self._sent:
            return []
        self._sent = True
        return [tuple(item) for item in self._batches[self._position]]

    def snapshot(self):
        if self._sent:
            self._sent = False
            self._position += 1
        return self._position


class LoadedLogic(StatefulBatchLogic):
    """Remember every value, in a form that the test chose; record what was loaded."""

    def __init__(self, record, as_bytes, state):
        if state is not None:
            shown = state.decode() if isinstance(state, bytes) else state
            record(["load", type(state).__name__, shown, threading.get_ident()])
        self._values = "" if state is None else shown
        self._as_bytes = as_bytes

    def on_batch(self, values):
        self._values += "".join(values)
        return [], False

    def snapshot(self):
        return self._values.encode() if self._as_bytes else self._values


def resume(record, batches=(), as_bytes=False):
    """A step that joins strings by key, and records what the engine loads."""
    flow = Dataflow("resume")
    items = op.input("inp", flow, OnceSource(record, batches))
    joined = op.stateful_batch("join", items, lambda state: LoadedLogic(record, as_bytes, state))
    op.output("out", joined, Discard())
    return flow


class HeldSource(FixedPartitionedSource):
    """Emit one item if told to; then end, or stay silent in ever new epochs."""

    def __init__(self, emit, ends):
        self._args = (emit, ends)

    def list_parts(self):
        return ["held"]

    def build_part(self, _step_id, _for_part, resume_state):
        return _HeldPartition(resume_state or 0, *self._args)


class _HeldPartition(StatefulSourcePartition):
    def __init__(self, position, emit, ends):
        self._position = position
        self._emit = emit
        self._ends = ends

    def next_batch(self):
        if self._emit and self._position == 0:
            self._position += 1
            return [("all", 1)]
        if self._ends:
            raise StopIteration
        return []

    def next_awake(self):
        return soon(2)

    def snapshot(self):
        return self._position


class StuckSource(FixedPartitionedSource):
    """A source that asks not to be awoken for an hour, so that its epoch stays open."""

    def list_parts(self):
        return ["stuck"]

    def build_part(self, _step_id, _for_part, _resume_state):
        return _StuckPartition()


class _StuckPartition(StatefulSourcePartition):
    def next_batch(self):
        return []

    def next_awake(self):
        return soon(3_600_000)

    def snapshot(self):
        return None


class PlainSum(StatefulBatchLogic):
    """A sum, recorded whenever it changes."""

    def __init__(self, record, total):
        self._record = record
        self._total = total or 0

    def on_batch(self, values):
        self._total += sum(values)
        self._record(self._total)
        return [], False

    def snapshot(self):
        return self._total


def double_crash(record, emit, stuck):
    """A sum over one item; with a second source that holds the epoch open if told to."""
    flow = Dataflow("double_crash")
    items = op.input("inp", flow, HeldSource(emit, ends=stuck))
    sums = op.stateful_batch("sum", items, lambda state: PlainSum(record, state))
    op.output("out", sums, Discard())
    if stuck:
        op.output("stuck_out", op.input("stuck", flow, StuckSource()), Discard())
    return flow


class SlowDynamicSource(DynamicSource):
    """Emit so many items without state, with a pause before each."""

    def __init__(self, count, pause_ms):
        self._args = (count, pause_ms)

    def build(self, _step_id, _worker_index, _worker_count):
        return _SlowDynamicPartition(*self._args)


class _SlowDynamicPartition(StatelessSourcePartition):
    def __init__(self, count, pause_ms):
        self._items = iter(range(count))
        self._pause_ms = pause_ms

    def next_batch(self):
        return [next(self._items)]

    def next_awake(self):
        return soon(self._pause_ms)


def stateless(record, count, pause_ms, beside=None):
    """Record items of a stateless flow, beside a stateful one or with a stateful side branch."""
    flow = Dataflow("stateless")
    items = op.input("inp", flow, SlowDynamicSource(count, pause_ms))

    def seen(item):
        record(item)
        return item

    op.output("out", op.map("seen", items, seen), Discard())
    if beside == "short stateful flow":
        short = op.input("short", flow, OnceSource(lambda _: None, [[("key", "x")]]))
        sums = op.stateful_batch("sum", short, lambda s: LoadedLogic(record, False, s))
        op.output("short_out", sums, Discard())
    elif beside == "empty side branch":
        none = op.key_on("key", op.filter("none", items, lambda _: False), str)
        op.stateful_batch("side", none, lambda s: LoadedLogic(record, False, s))
    return flow


# --- One activation ------------------------------------------------------------------------------


class ScriptLogic(StatefulBatchLogic):
    """Record every call; a value says when to notify, or whether the logic is complete."""

    def __init__(self, record, state):
        self._record = record
        self._state = state or ""
        self._notify_at = None
        record(["build", state])

    def on_batch(self, values):
        self._key = values[-1][0]
        self._record(["on_batch", *["".join(v) for v in values]])
        for _, wish in values:
            self._state += wish
            self._notify_at = {"now": soon(-1), "later": soon(1000)}.get(wish, self._notify_at)
            if wish == "forget":
                self._notify_at = None
        return [], values[-1][1] == "complete"

    def on_notify(self):
        self._record(["on_notify", self._key])
        self._notify_at = None
        return [], False

    def on_eof(self):
        self._record(["on_eof", self._key])
        return [], self._state.endswith("end")

    def notify_at(self):
        self._record(["notify_at", getattr(self, "_key", None)])
        return self._notify_at

    def snapshot(self):
        self._record(["snapshot", self._key])
        return self._state


class ScriptSource(FixedPartitionedSource):
    """Emit one batch per epoch; hold the last epoch open for a while if told to."""

    def __init__(self, record, batches, linger_ms):
        self._args = (record, batches, linger_ms)

    def list_parts(self):
        return ["script"]

    def build_part(self, _step_id, _for_part, _resume_state):
        return _ScriptPartition(*self._args)


class _ScriptPartition(StatefulSourcePartition):
    def __init__(self, record, batches, linger_ms):
        self._record = record
        self._batches = iter(batches)
        self._linger_ms = linger_ms
        self._until = None
        self._sent = False

    def next_batch(self):
        if self._sent:
            return []
        batch = next(self._batches, None)
        if batch is None:
            self._until = self._until or soon(self._linger_ms)
            if datetime.now(timezone.utc) >= self._until:
                raise StopIteration
            return []
        self._sent = True
        return [(key, (key, wish)) for key, wish in batch]

    def snapshot(self):
        self._sent = False
        self._record(["end of epoch"])


def script(record, batches, linger_ms=0):
    """A step whose logics do as their items say."""
    flow = Dataflow("script")
    items = op.input("inp", flow, ScriptSource(record, batches, linger_ms))
    done = op.stateful_batch("script", items, lambda state: ScriptLogic(record, state))
    op.output("out", done, Discard())
    return flow


# --- Placement -----------------------------------------------------------------------------------


class WorkerSource(DynamicSource):
    """Tell which thread is which worker; the first worker emits all keys."""

    def __init__(self, record, keys):
        self._record = record
        self._keys = keys

    def build(self, _step_id, worker_index, _worker_count):
        self._record(["worker", worker_index, threading.get_ident()])
        return _WorkerPartition(self._keys if worker_index == 0 else [])


class _WorkerPartition(StatelessSourcePartition):
    def __init__(self, keys):
        self._batches = iter([[(key, key) for key in keys]])

    def next_batch(self):
        return next(self._batches)


class PlacedLogic(StatefulBatchLogic):
    """Record the thread that a key came to."""

    def __init__(self, record):
        self._record = record

    def on_batch(self, values):
        self._record(["key", values[0], threading.get_ident()])
        return [], True

    def snapshot(self):
        return None


def placed(record, keys):
    """Record which worker handles which key."""
    flow = Dataflow("placed")
    items = op.input("inp", flow, WorkerSource(record, keys))
    done = op.stateful_batch("placed", items, lambda _state: PlacedLogic(record))
    op.output("out", done, Discard())
    return flow


# --- Core operators ------------------------------------------------------------------------------


def core(record, name):
    """A flow with a hand-made core operator of that name between input and output."""

    def build(step_id: str, up: Stream[Any]) -> Stream[Any]:
        return Stream(f"{up._scope.parent_id}.down", up._scope)

    build.__name__ = name
    flow = Dataflow("core")
    items = op.input("inp", flow, SlowDynamicSource(3, 1))
    after = operator(_core=True)(build)("made", items)

    def seen(item):
        record(item)
        return item

    op.output("out", op.map("seen", after, seen), Discard())
    return flow
