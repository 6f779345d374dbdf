"""The harness's flow: sums, a join, tumbling and session windows, sources and a sink with state.

===========  ============================================================================
step         state
===========  ============================================================================
`entries`    source: number of the next entry of each partition
`payments`   source: number of the next payment of each partition; another order than entries
`notes`      source that is mostly idle: number of its next item
`balance`    running sum of each account: an int
`paid`       join of an order and its payment; deleted when both have come
`minutes`    tumbling windows of each account
`visits`     session windows of each account
`out`        sink: how many lines went to each of its partitions, and a sum of their hashes
`hostile`    values of hostile shape; only with CHAOS_SHAPES
===========  ============================================================================

Settings, from the environment: CHAOS_LIMIT names a file with the number below which events may be
read, followed by `final` once it is final; CHAOS_OUT is the output folder of this process alone;
CHAOS_SHAPES, where it is set, adds the step with values of hostile shape.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream
from bytewax.operators.windowing import EventClock, SessionWindower, TumblingWindower, Windower
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from bytewax_redis_state.chaos import hostile_values, input_events
from bytewax_redis_state.chaos.input_events import AccountEntry, Sum

__all__ = ["FLOW_ID", "build_flow", "read_limit", "save_limit"]

FLOW_ID = "chaos"
_BATCH = 40
_POLL = timedelta(milliseconds=20)


def read_limit(path: Path) -> tuple[int, bool]:
    """Read the number below which events may be read, and whether it is final."""
    number, _, final = path.read_text().partition(" ")
    return int(number), bool(final)


def save_limit(path: Path, number: int, *, final: bool) -> None:
    """Write the number below which events may be read."""
    hidden = path.with_suffix(".new")
    hidden.write_text(f"{number} final" if final else f"{number}")
    hidden.replace(path)


# --- The input ----------------------------------------------------------------------------------


class _NumbersPartition(StatefulSourcePartition[Any, int]):
    """Every ``by``-th number below the limit; the state is the next number."""

    def __init__(self, make: Callable[[int], Any], number: int, by: int, scale: int) -> None:
        self._make = make
        self._next = number
        self._by = by
        self._scale = scale
        self._limit = Path(os.environ["CHAOS_LIMIT"])
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        limit, final = read_limit(self._limit)
        numbers = range(self._next, limit // self._scale, self._by)[:_BATCH]
        if numbers:
            self._next = numbers[-1] + self._by
        elif final:
            raise StopIteration
        full = len(numbers) == _BATCH
        self._awake = None if full else datetime.now(timezone.utc) + _POLL
        return [self._make(number) for number in numbers]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._next


class _NumbersSource(FixedPartitionedSource[Any, int]):
    def __init__(self, make: Callable[[int], Any], parts: int, scale: int = 1) -> None:
        self._make = make
        self._parts = parts
        self._scale = scale

    def list_parts(self) -> list[str]:
        return [str(part) for part in range(self._parts)]

    def build_part(
        self, step_id: str, for_part: str, resume_state: int | None
    ) -> _NumbersPartition:
        number = int(for_part) if resume_state is None else resume_state
        return _NumbersPartition(self._make, number, self._parts, self._scale)


# --- The output ---------------------------------------------------------------------------------


class _LinesPartition(StatefulSinkPartition[str, tuple[int, int]]):
    """Appends to a file of its own; the state is the count of lines and the sum of their hashes."""

    def __init__(self, path: Path, count: int, digest: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._count = count
        self._digest = digest

    def write_batch(self, values: list[str]) -> None:
        self._file.write("".join(f"{line}\n" for line in values).encode())
        self._count += len(values)
        self._digest = (self._digest + sum(map(input_events.digest, values))) % 2**60

    def snapshot(self) -> tuple[int, int]:
        return self._count, self._digest

    def close(self) -> None:
        self._file.close()


class _LinesSink(FixedPartitionedSink[str, tuple[int, int]]):
    def list_parts(self) -> list[str]:
        return [str(part) for part in range(input_events.FILES)]

    def part_fn(self, item_key: str) -> int:
        return input_events.file_of(item_key)

    def build_part(
        self, step_id: str, for_part: str, resume_state: tuple[int, int] | None
    ) -> _LinesPartition:
        path = Path(os.environ["CHAOS_OUT"]) / f"{for_part}-{os.getpid()}.txt"
        return _LinesPartition(path, *(resume_state or (0, 0)))


# --- The flow -----------------------------------------------------------------------------------


def _add_up(balance: int | None, an_entry: AccountEntry) -> tuple[int, tuple[int, int]]:
    balance = (balance or 0) + an_entry.cents
    return balance, (an_entry.number, balance)


def _begin() -> Sum | None:
    return None


def _go_on(total: Sum | None, an_entry: AccountEntry) -> Sum | None:
    return _together(total, Sum(an_entry.at, an_entry.at, 1, an_entry.cents))


def _together(left: Sum | None, right: Sum | None) -> Sum | None:
    if left is None or right is None:
        return left or right
    first, last = min(left.first, right.first), max(left.last, right.last)
    return Sum(first, last, left.entries + right.entries, left.cents + right.cents)


def _windows(
    step: str, entries: KeyedStream[AccountEntry], windower: Windower[Any]
) -> KeyedStream[str]:
    # A clock that stands still: only entries move the watermark of their account.
    clock: EventClock[AccountEntry] = EventClock(
        ts_getter=lambda an_entry: an_entry.at,
        wait_for_system_duration=input_events.WAIT,
        now_getter=lambda: input_events.START,
        to_system_utc=lambda _close_time: None,
    )

    def written(account: str, total: Sum | None) -> tuple[str, str]:
        assert total is not None  # a window opens with an entry
        return account, input_events.window_line(step, account, total)

    closed = win.fold_window(
        step, entries, clock, windower, builder=_begin, folder=_go_on, merger=_together
    )
    return op.map(f"{step}_line", closed.down, lambda w: written(w[0], w[1][1]))


def _put_hostile(before: Any, number: int) -> tuple[Any, str]:
    _, value = hostile_values.hostile_value(number)
    return value, hostile_values.value_line(number, before)


def _hostile_lines(entries: KeyedStream[AccountEntry]) -> KeyedStream[str]:
    some = op.filter("some", entries, lambda e: e[1].number % hostile_values.EVERY == 0)
    numbers = op.map("number", some, lambda e: e[1].number // hostile_values.EVERY)
    keyed = op.key_on("shape", numbers, lambda number: hostile_values.hostile_value(number)[0])
    return op.stateful_map("hostile", keyed, _put_hostile)


def build_flow() -> Dataflow:
    """Build the dataflow."""
    flow = Dataflow(FLOW_ID)
    entries = op.input("entries", flow, _NumbersSource(input_events.entry, input_events.PARTS))
    payments = op.input("payments", flow, _NumbersSource(input_events.payment, input_events.PARTS))
    notes = op.input("notes", flow, _NumbersSource(input_events.note, 1, input_events.NOTE_EVERY))

    balances = op.stateful_map("balance", op.merge("amounts", entries, notes), _add_up)
    orders = op.map("order", entries, lambda e: (f"order-{e[1].number}", e[1].cents))
    paid = op.join("paid", orders, payments)
    hostile = [_hostile_lines(entries)] if os.environ.get("CHAOS_SHAPES") else []
    lines = op.merge(
        "lines",
        *hostile,
        op.map("balance_line", balances, lambda b: (b[0], input_events.balance_line(b[0], *b[1]))),
        op.map("paid_line", paid, lambda p: (p[0], input_events.paid_line(p[0], *p[1]))),
        _windows(
            "minutes",
            entries,
            TumblingWindower(length=input_events.LENGTH, align_to=input_events.START),
        ),
        _windows("visits", entries, SessionWindower(input_events.GAP)),
    )
    op.output("out", lines, _LinesSink())
    return flow


flow = build_flow()
