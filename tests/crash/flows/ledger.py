"""A ledger that exercises what the clicks do not: a join, sessions, deletes, a sink with state.

Entry `i` follows from `i` alone. Every line carries what it is made of, and the sink cuts its files
back to where the last committed epoch left them: the files of a run that was killed and resumed
hold exactly the lines of an uninterrupted one, each once.

===========  ============================================================================
step         state
===========  ============================================================================
`entries`    source: number of the next entry of each partition
`payments`   source: number of the next payment of each partition; another order than entries
`balance`    running sum of each account: an int
`paid`       join of an order and its payment; deleted when both have come
`visit`      session windows of each account
`out`        sink: bytes written to each file
===========  ============================================================================

Settings, from the environment: LEDGER_EVENTS, LEDGER_ACCOUNTS, LEDGER_BATCH, LEDGER_PAUSE (seconds
between batches), LEDGER_OUT (directory).
"""

import hashlib
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, SessionWindower
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

EVENTS = int(os.environ.get("LEDGER_EVENTS", "6000"))
ACCOUNTS = int(os.environ.get("LEDGER_ACCOUNTS", "21"))
BATCH = int(os.environ.get("LEDGER_BATCH", "20"))
PAUSE = timedelta(seconds=float(os.environ.get("LEDGER_PAUSE", "0")))
OUT = Path(os.environ.get("LEDGER_OUT", "ledger-out"))

PARTS = 3
FILES = 2
BLOCK = 600
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
BETWEEN = timedelta(minutes=5)
JITTER = timedelta(seconds=30)
GAP = timedelta(minutes=15)


# --- The stream ---------------------------------------------------------------------------------


def draw(i: int, purpose: str) -> float:
    digest = hashlib.blake2b(f"{purpose} {i}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def entry(i: int) -> tuple[str, tuple[int, datetime, int]]:
    """Make entry `i`; all entries of an account come from one partition, so in one order."""
    per_part = ACCOUNTS // PARTS
    account = f"account-{int(draw(i, 'account') * per_part) * PARTS + i % PARTS}"
    at = START + i * BETWEEN / ACCOUNTS + draw(i, "jitter") * JITTER
    return account, (i, at, int(draw(i, "cents") * 20_000) - 10_000)


def payment(i: int) -> tuple[str, str]:
    """Make payment `i`: it belongs to another order, which may be hundreds of entries away."""
    block, place = divmod(i, BLOCK)
    size = min(BLOCK, EVENTS - block * BLOCK)
    order = block * BLOCK + size - 1 - place
    return f"order-{order}", f"device-{int(draw(order, 'device') * 9)}"


class NumbersPartition(StatefulSourcePartition[Any, int]):
    """Every third number; the state is the next one."""

    def __init__(self, make: Any, number: int):
        self._make = make
        self._next = number
        self._awake: datetime | None = None

    def next_batch(self) -> list[Any]:
        if self._next >= EVENTS:
            raise StopIteration
        numbers = range(self._next, EVENTS, PARTS)[:BATCH]
        self._next = numbers[-1] + PARTS
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [self._make(i) for i in numbers]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._next


class NumbersSource(FixedPartitionedSource[Any, int]):
    def __init__(self, make: Any):
        self._make = make

    def list_parts(self) -> list[str]:
        return [str(part) for part in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> NumbersPartition:
        number = int(for_part) if resume_state is None else resume_state
        return NumbersPartition(self._make, number)


# --- The output ---------------------------------------------------------------------------------


class FilePartition(StatefulSinkPartition[str, int]):
    """Appends to a file that was cut back to the state's length: each line exactly once."""

    def __init__(self, path: Path, length: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(length)
        self._length = length

    def write_batch(self, values: list[str]) -> None:
        data = "".join(f"{line}\n" for line in values).encode()
        self._file.write(data)
        self._length += len(data)

    def snapshot(self) -> int:
        return self._length

    def close(self) -> None:
        self._file.close()


class FileSink(FixedPartitionedSink[str, int]):
    def list_parts(self) -> list[str]:
        return [str(part) for part in range(FILES)]

    def part_fn(self, item_key: str) -> int:
        return crc32(item_key.encode())

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> FilePartition:
        return FilePartition(OUT / f"{for_part}.txt", resume_state or 0)


# --- The flow -----------------------------------------------------------------------------------

Visit = tuple[datetime, datetime, int, int]  # first entry at, last entry at, entries, cents


def balance_line(account: str, i: int, cents: int) -> str:
    return f"balance {account} {i} {cents}"


def paid_line(order: str, cents: int, device: str) -> str:
    return f"paid {order} {cents} {device}"


def visit_line(account: str, visit: Visit) -> str:
    first, last, entries, cents = visit
    return f"visit {account} {first.isoformat()} {last.isoformat()} {entries} {cents}"


def add_up(balance: int | None, an_entry: tuple[int, datetime, int]) -> tuple[int, Any]:
    i, _, cents = an_entry
    balance = (balance or 0) + cents
    return balance, (i, balance)


def begin() -> Visit | None:
    return None


def go_on(visit: Visit | None, an_entry: tuple[int, datetime, int]) -> Visit:
    _, at, cents = an_entry
    return join_visits(visit, (at, at, 1, cents))


def join_visits(left: Visit | None, right: Visit | None) -> Any:
    if left is None or right is None:
        return left or right
    return (
        min(left[0], right[0]),
        max(left[1], right[1]),
        left[2] + right[2],
        left[3] + right[3],
    )


# A clock that stands still: only entries move the watermark of their account.
clock = EventClock(
    ts_getter=lambda an_entry: an_entry[1],
    wait_for_system_duration=2 * JITTER,
    now_getter=lambda: START,
    to_system_utc=lambda _close_time: None,
)

flow = Dataflow("ledger")

entries = op.input("entries", flow, NumbersSource(entry))
payments = op.input("payments", flow, NumbersSource(payment))

balances = op.stateful_map("balance", entries, add_up)
orders = op.map("order", entries, lambda e: (f"order-{e[1][0]}", e[1][2]))
paid = op.join("paid", orders, payments)
visits = win.fold_window(
    "visit",
    entries,
    clock,
    SessionWindower(GAP),
    builder=begin,
    folder=go_on,
    merger=join_visits,
)

lines = op.merge(
    "lines",
    op.map("balance_line", balances, lambda b: (b[0], balance_line(b[0], *b[1]))),
    op.map("paid_line", paid, lambda p: (p[0], paid_line(p[0], *p[1]))),
    op.map("visit_line", visits.down, lambda v: (v[0], visit_line(v[0], v[1][1]))),
)
op.output("out", lines, FileSink())
