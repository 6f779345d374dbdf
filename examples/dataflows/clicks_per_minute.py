"""Count the clicks on every page: per minute, and in all.

The stream is made up, and click `i` follows from `i` alone: a run that is killed and resumed reads
exactly the clicks it would have read, and closes exactly the same windows.

=============  ==========================================================================
keys           pages, `page-0`, `page-1`, …
`per_minute`   tumbling windows of event time; state: open minutes and their counts
`total`        running total of a page, for as long as the page lives; state: an int
=============  ==========================================================================

Run it with Bytewax alone, or with its state in Redis:

    python -m bytewax.run examples/dataflows/clicks_per_minute.py:flow
    python -m bytewax_redis_state.run examples/dataflows/clicks_per_minute.py:flow \
        --redis redis://localhost:6379 -s 1

Settings, from the environment:

=================  ======================================================  =======
CLICKS_EVENTS      clicks in the stream                                    100000
CLICKS_PAGES       pages; a multiple of 4, else rounded down to one        20
CLICKS_RATE        clicks per second of event time                         200
CLICKS_BATCH       clicks a source partition reads at once                 200
CLICKS_PAUSE       seconds a source partition rests between batches        0
CLICKS_OUT         directory for JSON lines, one file per worker;          stdout
                   lines may repeat after a resume, and the last line
                   of a killed worker may be cut short
=================  ======================================================  =======
"""

import hashlib
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition

EVENTS = int(os.environ.get("CLICKS_EVENTS", "100000"))
PAGES = int(os.environ.get("CLICKS_PAGES", "20"))
RATE = float(os.environ.get("CLICKS_RATE", "200"))
BATCH = int(os.environ.get("CLICKS_BATCH", "200"))
PAUSE = timedelta(seconds=float(os.environ.get("CLICKS_PAUSE", "0")))
OUT = os.environ.get("CLICKS_OUT")

PARTS = 4
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
JITTER = timedelta(seconds=5)
MILESTONE = 1000

Click = tuple[str, datetime]  # page, clicked at


# --- The stream ---------------------------------------------------------------------------------


def draw(i: int, purpose: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for `i` and `purpose`."""
    digest = hashlib.blake2b(f"{purpose} {i}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def click(i: int) -> Click:
    """Make click `i`: popular pages get more of them, and they come out of order."""
    pages_per_part = max(1, PAGES // PARTS)
    # The square makes low numbers more likely. All clicks of a page come from one partition, so
    # that their order doesn't depend on how the partitions are spread over the workers.
    rank = int(draw(i, "page") ** 2 * pages_per_part)
    page = f"page-{rank * PARTS + i % PARTS}"
    return (page, START + timedelta(seconds=i / RATE) + draw(i, "jitter") * JITTER)


class ClickPartition(StatefulSourcePartition[Click, int]):
    """Every fourth click; the state is the number of the next one."""

    def __init__(self, next_click: int):
        self._next_click = next_click
        self._awake: datetime | None = None

    def next_batch(self) -> list[Click]:
        """Make the next clicks."""
        if self._next_click >= EVENTS:
            raise StopIteration
        numbers = range(self._next_click, EVENTS, PARTS)[:BATCH]
        self._next_click = numbers[-1] + PARTS
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [click(i) for i in numbers]

    def next_awake(self) -> datetime | None:
        """Rest between batches, if asked to."""
        return self._awake

    def snapshot(self) -> int:
        """Remember which click is next."""
        return self._next_click


class ClickSource(FixedPartitionedSource[Click, int]):
    """All clicks, in four partitions that several workers can share."""

    def list_parts(self) -> list[str]:
        """Name the partitions."""
        return [str(part) for part in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ClickPartition:
        """Start a partition, or go on where its last snapshot was taken."""
        return ClickPartition(int(for_part) if resume_state is None else resume_state)


# --- The output ---------------------------------------------------------------------------------


class LinesPartition(StatelessSinkPartition[str]):
    """Appends lines to one file, each batch in one unbuffered write."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write_batch(self, items: list[str]) -> None:
        """Append the lines."""
        self._file.write("".join(f"{line}\n" for line in items).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LinesSink(DynamicSink[str]):
    """A file of lines per worker: `<process id>-<worker>.jsonl`. At least once."""

    def __init__(self, directory: Path):
        self._directory = directory

    def build(self, step_id: str, worker_index: int, worker_count: int) -> LinesPartition:
        """Open this worker's file."""
        return LinesPartition(self._directory / f"{os.getpid()}-{worker_index}.jsonl")


def window_record(page_window: tuple[str, tuple[int, int]]) -> dict[str, Any]:
    page, (window_id, clicks) = page_window
    minute = (START + window_id * MINUTE).isoformat()
    return {"page": page, "window": window_id, "minute": minute, "clicks": clicks}


def milestone_record(page_total: tuple[str, int]) -> dict[str, Any]:
    page, total = page_total
    return {"page": page, "total": total}


def text(record: dict[str, Any]) -> str:
    if "total" in record:
        return f"{record['page']:<10} has now had {record['total']:,} clicks"
    return f"{record['page']:<10} {record['minute'][11:16]}  {record['clicks']:>6,} clicks"


# --- The flow -----------------------------------------------------------------------------------


def count_up(total: int | None, clicked_at: datetime) -> tuple[int, int]:
    total = (total or 0) + 1
    return (total, total)


# A clock that stands still: only clicks move the watermark of their page. On the wall's clock a
# click could come too late because the flow was slow, or down, and the counts would tell.
clock = EventClock(
    ts_getter=lambda page_click: page_click[1],
    wait_for_system_duration=2 * JITTER,
    now_getter=lambda: START,
    to_system_utc=lambda _close_time: None,
)

flow = Dataflow("clicks_per_minute")

clicks = op.input("clicks", flow, ClickSource())
# → (page, clicked_at)

windows = win.count_window(
    "per_minute", clicks, clock, TumblingWindower(MINUTE, START), key=lambda click: click[0]
)
closed = op.map("window_record", windows.down, window_record)
# → {page, window, minute, clicks}, once per page and minute

totals = op.stateful_map("total", clicks, count_up)
# → (page, total), once per click
milestones = op.filter_value("milestone", totals, lambda total: total % MILESTONE == 0)
# → (page, total), once per thousand clicks of a page
reached = op.map("milestone_record", milestones, milestone_record)
# → {page, total}

records = op.merge("records", closed, reached)
# → {page, …}
lines = op.map("line", records, json.dumps if OUT else text)
# → one line of text
op.output("out", lines, LinesSink(Path(OUT)) if OUT else StdOutSink())
