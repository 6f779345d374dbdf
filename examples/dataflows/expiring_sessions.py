"""Watch state come and go: visitors who come once, and are forgotten when their time is over.

The stream is made up. Every visitor comes once and opens three pages; the source then stays open
for a while, so that you can see what becomes of their state.

=============  ==========================================================================
keys           visitors, `visitor-0`, `visitor-1`, …; each comes once
`visit`        session windows of event time; a second without a page ends a visit.
               Bytewax itself keeps each visitor for ever: with its state in Redis, the
               step drops a visitor one gap, one wait and one grace after the visit
`seen`         state: how many visits a visitor has made; kept for ever, unless you say
               how long with `--retention seen=5s`
=============  ==========================================================================

Run it with Bytewax alone, or with its state in Redis:

    python -m bytewax.run examples/dataflows/expiring_sessions.py:flow
    python -m bytewax_redis_state.run examples/dataflows/expiring_sessions.py:flow \
        --redis redis://localhost:6379 -s 1 \
        --checkpoint-interval 1s --window-grace 2s --retention seen=5s

and meanwhile count the keys, which go up and then back to one, the source's own:

    redis-cli --scan --pattern 'bytewax:{expiring_sessions/*:state:*' | wc -l

Settings, from the environment:

=================  ======================================================  =======
EXPIRING_VISITORS  visitors in the stream                                  3000
EXPIRING_BATCH     visitors who come at once                               100
EXPIRING_PAUSE     seconds between two batches                             0
EXPIRING_OPEN      seconds that the source stays open after the last one   20
=================  ======================================================  =======
"""

import os
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, SessionWindower

VISITORS = int(os.environ.get("EXPIRING_VISITORS", "3000"))
BATCH = int(os.environ.get("EXPIRING_BATCH", "100"))
PAUSE = timedelta(seconds=float(os.environ.get("EXPIRING_PAUSE", "0")))
OPEN = timedelta(seconds=float(os.environ.get("EXPIRING_OPEN", "20")))

PAGES = 3
GAP = timedelta(seconds=1)
WAIT = timedelta(seconds=1)
POLL = timedelta(seconds=0.1)

Page = tuple[str, datetime]  # visitor, opened at


def now() -> datetime:
    return datetime.now(timezone.utc)


class VisitorPartition(StatefulSourcePartition[Page, int]):
    """All visitors; the state is the number of the next one."""

    def __init__(self, next_visitor: int):
        self._next_visitor = next_visitor
        self._awake: datetime | None = None
        self._closes_at: datetime | None = None

    def next_batch(self) -> list[Page]:
        """Let the next visitors come, or nobody while the source stays open."""
        numbers = range(self._next_visitor, VISITORS)[:BATCH]
        self._next_visitor += len(numbers)
        self._awake = now() + PAUSE
        if not numbers:
            self._closes_at = self._closes_at or now() + OPEN
            if now() >= self._closes_at:
                raise StopIteration
            # Not all of the time at once: epochs close when a source is asked.
            self._awake = now() + POLL
        # All pages of a visitor in one batch: a visit is whole, however often the flow is killed.
        return [(f"visitor-{number}", now()) for number in numbers for _ in range(PAGES)]

    def next_awake(self) -> datetime | None:
        """Rest between batches, if asked to, and at the end."""
        return self._awake

    def snapshot(self) -> int:
        """Remember which visitor is next."""
        return self._next_visitor


class VisitorSource(FixedPartitionedSource[Page, int]):
    """All visitors, in one partition."""

    def list_parts(self) -> list[str]:
        """Name the partition."""
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> VisitorPartition:
        """Start the partition, or go on where its last snapshot was taken."""
        return VisitorPartition(resume_state or 0)


def count(pages: int, _opened_at: datetime) -> int:
    return pages + 1


def again(visits: int | None, window: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    visits = (visits or 0) + 1
    return visits, (visits, window[1])


def text(visitor_visit: tuple[str, tuple[int, int]]) -> str:
    visitor, (number, pages) = visitor_visit
    return f"{visitor} visit {number}: {pages} pages"


flow = Dataflow("expiring_sessions")

pages = op.input("pages", flow, VisitorSource())
# → (visitor, opened_at)

visits = win.fold_window(
    "visit",
    pages,
    EventClock(ts_getter=lambda opened_at: opened_at, wait_for_system_duration=WAIT),
    SessionWindower(GAP),
    builder=int,
    folder=count,
    merger=lambda left, right: left + right,
)
# visits.down → (visitor, (window_id, pages))

seen = op.stateful_map("seen", visits.down, again)
# → (visitor, (number of the visit, pages))

lines = op.map("line", seen, text)
op.output("out", lines, StdOutSink())
