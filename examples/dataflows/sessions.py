"""Follow the users of a shop: what each did in a visit, from first action to last.

The stream is made up, and action `i` follows from `i` alone: a run that is killed and resumed
reads exactly the same actions again.

=============  ==========================================================================
keys           users, `user-0`, `user-1`, …
`visit`        session windows of event time; 15 minutes without an action end a visit;
               state: `(first action at, last action at, actions, cents spent)`
=============  ==========================================================================

Run it with Bytewax alone, or with its state in Redis:

    python -m bytewax.run examples/dataflows/sessions.py:flow
    python -m bytewax_redis_state.run examples/dataflows/sessions.py:flow \
        --redis redis://localhost:6379 -s 1

Settings, from the environment:

=================  ======================================================  =======
SESSIONS_EVENTS    actions in the stream                                   5000
SESSIONS_USERS     users; a multiple of 3, else rounded down to one        21
SESSIONS_BATCH     actions a source partition reads at once                100
SESSIONS_PAUSE     seconds a source partition rests between batches        0
=================  ======================================================  =======
"""

import hashlib
import os
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, SessionWindower

EVENTS = int(os.environ.get("SESSIONS_EVENTS", "5000"))
USERS = int(os.environ.get("SESSIONS_USERS", "21"))
BATCH = int(os.environ.get("SESSIONS_BATCH", "100"))
PAUSE = timedelta(seconds=float(os.environ.get("SESSIONS_PAUSE", "0")))

PARTS = 3
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
BETWEEN_ACTIONS = timedelta(minutes=5)
JITTER = timedelta(seconds=30)
GAP = timedelta(minutes=15)

Action = tuple[str, tuple[datetime, int]]  # user, (acted at, cents spent)


# --- The stream ---------------------------------------------------------------------------------


def draw(i: int, purpose: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for `i` and `purpose`."""
    digest = hashlib.blake2b(f"{purpose} {i}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def action(i: int) -> Action:
    """Make action `i`: a user acts every five minutes on average, and one time in ten buys."""
    users_per_part = max(1, USERS // PARTS)
    # All actions of a user come from one partition, so that their order doesn't depend on how the
    # partitions are spread over the workers.
    user = int(draw(i, "user") * users_per_part) * PARTS + i % PARTS
    acted_at = START + i * BETWEEN_ACTIONS / (users_per_part * PARTS)
    cents = 1 + int(draw(i, "price") * 9999) if draw(i, "buys") < 0.1 else 0
    return (f"user-{user}", (acted_at + draw(i, "jitter") * JITTER, cents))


class ActionPartition(StatefulSourcePartition[Action, int]):
    """Every third action; the state is the number of the next one."""

    def __init__(self, next_action: int):
        self._next_action = next_action
        self._awake: datetime | None = None

    def next_batch(self) -> list[Action]:
        """Make the next actions."""
        if self._next_action >= EVENTS:
            raise StopIteration
        numbers = range(self._next_action, EVENTS, PARTS)[:BATCH]
        self._next_action = numbers[-1] + PARTS
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [action(i) for i in numbers]

    def next_awake(self) -> datetime | None:
        """Rest between batches, if asked to."""
        return self._awake

    def snapshot(self) -> int:
        """Remember which action is next."""
        return self._next_action


class ActionSource(FixedPartitionedSource[Action, int]):
    """All actions, in three partitions that several workers can share."""

    def list_parts(self) -> list[str]:
        """Name the partitions."""
        return [str(part) for part in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ActionPartition:
        """Start a partition, or go on where its last snapshot was taken."""
        return ActionPartition(int(for_part) if resume_state is None else resume_state)


# --- The flow -----------------------------------------------------------------------------------

Visit = tuple[datetime, datetime, int, int]  # first action at, last action at, actions, cents


def nothing() -> Visit | None:
    return None


def add(visit: Visit | None, acted: tuple[datetime, int]) -> Visit:
    acted_at, cents = acted
    this = (acted_at, acted_at, 1, cents)
    return this if visit is None else merge(visit, this)


def merge(left: Visit, right: Visit) -> Visit:
    return (
        min(left[0], right[0]),
        max(left[1], right[1]),
        left[2] + right[2],
        left[3] + right[3],
    )


def text(user_visit: tuple[str, tuple[int, Visit]]) -> str:
    user, (window_id, (first, last, actions, cents)) = user_visit
    times = f"{first:%d %H:%M:%S}–{last:%H:%M:%S}"
    return f"{user:<8} visit {window_id:<3} {times}  {actions:>3} actions  {cents / 100:>8,.2f} €"


# A clock that stands still: only actions move the watermark of their user. On the wall's clock an
# action could come too late because the flow was slow, or down, and the visits would tell.
clock = EventClock(
    ts_getter=lambda acted: acted[0],
    wait_for_system_duration=2 * JITTER,
    now_getter=lambda: START,
    to_system_utc=lambda _close_time: None,
)

flow = Dataflow("sessions")

actions = op.input("actions", flow, ActionSource())
# → (user, (acted_at, cents))

visits = win.fold_window(
    "visit",
    actions,
    clock,
    SessionWindower(GAP),
    builder=nothing,
    folder=add,
    merger=merge,
)
# visits.down → (user, (window_id, (first, last, actions, cents)))

lines = op.map("line", visits.down, text)
# → one line of text per visit that ended
op.output("out", lines, StdOutSink())
