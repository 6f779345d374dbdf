"""Every stateful operator and window that Bytewax has, as one flow that records what each puts out.

Deterministic on any number of workers: the items of a key come from one source partition, event
clocks stand still, system windows are longer than any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any
from zlib import crc32

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow, Stream, operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic, StatefulLogic
from bytewax.testing import TestingSink

EPOCH = datetime(2024, 1, 1, tzinfo=timezone.utc)
KEYS = [f"key{number}" for number in range(7)]
SECONDS = (0, 3, 1, 9, 14, 12, 30, 5, 41, 38, 55, 70, 20, 66, 90, 121, 100, 118, 140, 2)
ITEMS = [
    (key, (EPOCH + timedelta(seconds=second), (len(key) + number * 7) % 11))
    for number, second in enumerate(SECONDS)
    for key in KEYS
]

Keyed = Stream[tuple[str, Any]]
Record = list[tuple[str, str, str]]


class _Part(StatefulSourcePartition[Any, int]):
    def __init__(self, items: list[Any], resume: int | None) -> None:
        self.items = items
        self.at = resume or 0

    def next_batch(self) -> Iterable[Any]:
        if self.at >= len(self.items):
            raise StopIteration
        batch = self.items[self.at : self.at + 3]
        self.at += 3
        return batch

    def snapshot(self) -> int:
        return self.at


class TwoPartSource(FixedPartitionedSource[Any, int]):
    """Two partitions, each with all items of its keys."""

    def list_parts(self) -> list[str]:
        return ["0", "1"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        mine = [item for item in ITEMS if crc32(item[0].encode()) % 2 == int(for_part)]
        return _Part(mine, resume_state)


class Totals(StatefulBatchLogic[int, tuple[str, int], int]):
    """Sums; ends with the input."""

    def __init__(self, total: int | None) -> None:
        self.total = total or 0

    def on_batch(self, values: list[int]) -> tuple[Iterable[tuple[str, int]], bool]:
        sums = []
        for value in values:
            self.total += value
            sums.append(("sum", self.total))
        return sums, False

    def on_eof(self) -> tuple[Iterable[tuple[str, int]], bool]:
        return [("end", self.total)], True

    def snapshot(self) -> int:
        return self.total


class Thirds(StatefulLogic[int, list[int], list[int]]):
    """Lists of three; discarded after each."""

    def __init__(self, held: list[int] | None) -> None:
        self.held = held or []

    def on_item(self, value: int) -> tuple[Iterable[list[int]], bool]:
        self.held.append(value)
        return ([list(self.held)], True) if len(self.held) == 3 else ([], False)

    def on_eof(self) -> tuple[Iterable[list[int]], bool]:
        return (self.held,), True

    def snapshot(self) -> list[int]:
        return list(self.held)


class LastTwo(win.WindowLogic[Any, Any, Any]):
    """Put out each value with the one before it."""

    def __init__(self, last: Any) -> None:
        self.last = last

    def on_value(self, value: Any) -> Iterable[Any]:
        pair = (self.last, value[1])
        self.last = value[1]
        return [pair]

    def on_merge(self, original: LastTwo) -> Iterable[Any]:
        return [("merged", original.last)]

    def on_close(self) -> Iterable[Any]:
        return [("closed", self.last)]

    def snapshot(self) -> Any:
        return self.last


@operator
def twice(step_id: str, up: Keyed) -> Keyed:
    """Two keyed steps in one operator of the user's, one of them nested."""
    totals = op.stateful_batch("totals", up, Totals)
    return inner("inner", totals)


@operator
def inner(step_id: str, up: Keyed) -> Keyed:
    return op.stateful_map("count", up, lambda state, value: ((state or 0) + 1, (state, value)))


def running(state: int | None, value: int) -> tuple[int | None, list[int]]:
    total = (state or 0) + value
    return (None if total > 40 else total), [total] * (value % 3)


PLAIN: dict[str, Callable[[Keyed], Keyed]] = {
    "stateful_batch": lambda up: op.stateful_batch("step", up, Totals),
    "stateful": lambda up: op.stateful("step", up, Thirds),
    "stateful_map": lambda up: op.stateful_map(
        "step", up, lambda state, value: ((state or 0) + value, [state, value])
    ),
    "stateful_flat_map": lambda up: op.stateful_flat_map("step", up, running),
    "collect": lambda up: op.collect("step", up, timeout=timedelta(hours=1), max_size=3),
    "count_final": lambda up: op.count_final("step", up, lambda item: item[0]),
    "fold_final": lambda up: op.fold_final("step", up, list, lambda acc, value: [*acc, value]),
    "reduce_final": lambda up: op.reduce_final("step", up, lambda a, b: a * 2 + b),
    "max_final": lambda up: op.max_final("step", up),
    "min_final": lambda up: op.min_final("step", up),
    "twice": lambda up: twice("step", up),
}
WINDOWERS = {
    "tumbling": win.TumblingWindower(length=timedelta(seconds=10), align_to=EPOCH),
    "sliding": win.SlidingWindower(
        length=timedelta(seconds=10), offset=timedelta(seconds=4), align_to=EPOCH
    ),
    "session": win.SessionWindower(gap=timedelta(seconds=8)),
}
LONG = timedelta(days=100_000)
LONG_WINDOWERS = {
    "tumbling": win.TumblingWindower(length=LONG, align_to=EPOCH),
    "sliding": win.SlidingWindower(length=LONG, offset=LONG / 2, align_to=EPOCH),
    "session": win.SessionWindower(gap=LONG),
}


def timestamp(value: Any) -> datetime:
    # count_window hands over the whole item, the others its value.
    return value[1][0] if isinstance(value[0], str) else value[0]


def event_clock() -> win.EventClock[Any]:
    return win.EventClock(
        ts_getter=timestamp,
        wait_for_system_duration=timedelta(seconds=25),
        now_getter=lambda: EPOCH,
        to_system_utc=lambda _timestamp: None,
    )


def by_value(value: Any) -> Any:
    return value[1]


def keep_newer(old: Any, new: Any) -> Any:
    return max(old, new)


def windowed(
    up: Keyed, sides: list[Keyed], name: str, ordered: bool, clock: Any, windower: Any
) -> win.WindowOut[Any, Any]:
    if name == "window":
        return win.window("step", up, clock, windower, LastTwo, ordered)
    if name == "fold_window":
        return win.fold_window(
            "step",
            up,
            clock,
            windower,
            list,
            lambda acc, value: [*acc, value[1]],
            lambda old, new: [*old, "merged", *new],
            ordered,
        )
    if name == "collect_window":
        return win.collect_window("step", up, clock, windower, list, ordered)
    if name == "join_window":
        return win.join_window(
            "step", clock, windower, *sides, insert_mode="product", ordered=ordered
        )
    if name == "count_window":
        return win.count_window("step", up, clock, windower, lambda item: item[0])
    if name == "reduce_window":
        return win.reduce_window("step", up, clock, windower, keep_newer)
    return getattr(win, name)("step", up, clock, windower, by=by_value)


ORDERED_OR_NOT = ["window", "fold_window", "collect_window", "join_window"]
WINDOWED = [
    *product(ORDERED_OR_NOT, [True, False]),
    *product(["count_window", "reduce_window", "max_window", "min_window"], [True]),
]


JOIN_MODES = list(product(("first", "last", "product"), ("complete", "final", "running")))
CLOCKS = {"event": WINDOWERS, "system": LONG_WINDOWERS}


def window_case(name: str, clock: str, shape: str, ordered: bool) -> str:
    return f"{name}_{clock}_{shape}_{'ordered' if ordered else 'unordered'}"


WINDOW_CASES = {
    window_case(name, clock, shape, ordered): (name, clock, shape, ordered)
    for (name, ordered), (clock, shapes) in product(WINDOWED, CLOCKS.items())
    for shape in shapes
}
CASES = [
    *PLAIN,
    *("_".join(("join", *modes)) for modes in JOIN_MODES),
    *(f"{case} down" for case in WINDOW_CASES),
    *(f"{case} late" for case in WINDOW_CASES if "event" in case),
]
"""What every run must put something out for."""


@operator
def within(step_id: str, up: Keyed, build: Callable[[Keyed], Keyed]) -> Keyed:
    """Give a case a place of its own in the step tree."""
    return build(up)


@operator
def window_within(
    step_id: str, up: Keyed, side: Keyed, case: tuple[Any, ...]
) -> win.WindowOut[Any, Any]:
    return windowed(up, [up, side], *case)


@operator
def join_within(step_id: str, left: Keyed, right: Keyed, modes: tuple[Any, Any]) -> Keyed:
    insert_mode, emit_mode = modes
    return op.join("step", left, right, insert_mode=insert_mode, emit_mode=emit_mode)


def catalog(record: Record) -> Dataflow:
    """Build the flow of all cases.

    :arg record: Gets ``(case, key, repr of the value)``.
    """
    flow = Dataflow("catalog")
    items = op.input("items", flow, TwoPartSource())
    values = op.map_value("values", items, by_value)
    halves = op.branch("halves", items, lambda item: item[1][1] % 2 == 0)
    value_halves = op.branch("value_halves", values, lambda item: item[1] % 2 == 0)

    def note(case: str, stream: Keyed) -> None:
        name = case.replace(" ", "_")
        told = op.map(f"tell_{name}", stream, lambda item: (case, item[0], repr(item[1])))
        op.output(f"out_{name}", told, TestingSink(record))

    def note_windows(case: str, stream: Keyed) -> None:
        # How windows interleave depends on what arrives together, also in stock.
        told = op.map(
            "tell_" + case.replace(" ", "_"),
            stream,
            lambda item: (f"{case} {item[1][0]}", item[0], repr(item[1][1])),
        )
        op.output("out_" + case.replace(" ", "_"), told, TestingSink(record))

    for name, build in PLAIN.items():
        note(name, within(name, values, build))
    for modes in JOIN_MODES:
        joined = "_".join(("join", *modes))
        note(joined, join_within(joined, value_halves.trues, value_halves.falses, modes))
    for case, (name, clock_name, shape, ordered) in WINDOW_CASES.items():
        clock = event_clock() if clock_name == "event" else win.SystemClock()
        parts = (name, ordered, clock, CLOCKS[clock_name][shape])
        out = window_within(case, items, halves.trues, parts)
        note_windows(f"{case} down", out.down)
        note_windows(f"{case} late", out.late)
        if (clock_name, shape) != ("system", "session"):
            note_windows(f"{case} meta", out.meta)
    return flow
