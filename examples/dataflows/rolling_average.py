"""Average the temperature of every sensor over the last hour, four times an hour.

The stream is made up, and reading `i` follows from `i` alone: a run that is killed and resumed
reads exactly the same readings again.

=============  ==========================================================================
keys           sensors, `sensor-0`, `sensor-1`, …
`last_hour`    sliding windows of event time, one hour long, a new one every 15 minutes;
               state: `(readings, sum)` of each open window
=============  ==========================================================================

Run it with Bytewax alone, or with its state in Redis:

    python -m bytewax.run examples/dataflows/rolling_average.py:flow
    python -m bytewax_redis_state.run examples/dataflows/rolling_average.py:flow \
        --redis redis://localhost:6379 -s 1

Settings, from the environment:

=================  ======================================================  =======
ROLLING_EVENTS     readings in the stream                                  10000
ROLLING_SENSORS    sensors; a multiple of 2, else rounded down to one      12
ROLLING_BATCH      readings a source partition reads at once               100
ROLLING_PAUSE      seconds a source partition rests between batches        0
=================  ======================================================  =======
"""

import hashlib
import math
import os
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, SlidingWindower

EVENTS = int(os.environ.get("ROLLING_EVENTS", "10000"))
SENSORS = int(os.environ.get("ROLLING_SENSORS", "12"))
BATCH = int(os.environ.get("ROLLING_BATCH", "100"))
PAUSE = timedelta(seconds=float(os.environ.get("ROLLING_PAUSE", "0")))

PARTS = 2
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
EVERY = timedelta(seconds=30)
JITTER = timedelta(minutes=2)
LENGTH = timedelta(hours=1)
OFFSET = timedelta(minutes=15)

Reading = tuple[str, tuple[datetime, float]]  # sensor, (measured at, degrees)


# --- The stream ---------------------------------------------------------------------------------


def draw(i: int, purpose: str) -> float:
    """Return a number in [0, 1) that looks random and is always the same for `i` and `purpose`."""
    digest = hashlib.blake2b(f"{purpose} {i}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def reading(i: int) -> Reading:
    """Make reading `i`: the sensors take turns, and readings come out of order."""
    sensors = max(1, SENSORS // PARTS) * PARTS
    # A multiple of the partitions: all readings of a sensor come from one partition, so that their
    # order doesn't depend on how the partitions are spread over the workers.
    measured_at = START + (i // sensors) * EVERY + draw(i, "jitter") * JITTER
    by_day = math.sin(2 * math.pi * (measured_at - START) / timedelta(days=1))
    degrees = round(20 + 5 * by_day + draw(i, "noise"), 1)
    return (f"sensor-{i % sensors}", (measured_at, degrees))


class ReadingPartition(StatefulSourcePartition[Reading, int]):
    """Every second reading; the state is the number of the next one."""

    def __init__(self, next_reading: int):
        self._next_reading = next_reading
        self._awake: datetime | None = None

    def next_batch(self) -> list[Reading]:
        """Make the next readings."""
        if self._next_reading >= EVENTS:
            raise StopIteration
        numbers = range(self._next_reading, EVENTS, PARTS)[:BATCH]
        self._next_reading = numbers[-1] + PARTS
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [reading(i) for i in numbers]

    def next_awake(self) -> datetime | None:
        """Rest between batches, if asked to."""
        return self._awake

    def snapshot(self) -> int:
        """Remember which reading is next."""
        return self._next_reading


class ReadingSource(FixedPartitionedSource[Reading, int]):
    """All readings, in two partitions that two workers can share."""

    def list_parts(self) -> list[str]:
        """Name the partitions."""
        return [str(part) for part in range(PARTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> ReadingPartition:
        """Start a partition, or go on where its last snapshot was taken."""
        return ReadingPartition(int(for_part) if resume_state is None else resume_state)


# --- The flow -----------------------------------------------------------------------------------

Sum = tuple[int, float]  # readings, sum of their degrees


def nothing() -> Sum:
    return (0, 0.0)


def add(so_far: Sum, measured: tuple[datetime, float]) -> Sum:
    readings, degrees = so_far
    return (readings + 1, degrees + measured[1])


def merge(left: Sum, right: Sum) -> Sum:
    return (left[0] + right[0], left[1] + right[1])


def text(sensor_window: tuple[str, tuple[int, Sum]]) -> str:
    sensor, (window_id, (readings, degrees)) = sensor_window
    opens = START + window_id * OFFSET
    average = degrees / readings
    return f"{sensor:<10} {opens:%d %H:%M}–{opens + LENGTH:%H:%M}  {average:.2f} °C ({readings})"


# A clock that stands still: only readings move the watermark of their sensor. On the wall's clock
# a reading could come too late because the flow was slow, or down, and the averages would tell.
clock = EventClock(
    ts_getter=lambda measured: measured[0],
    wait_for_system_duration=2 * JITTER,
    now_getter=lambda: START,
    to_system_utc=lambda _close_time: None,
)

flow = Dataflow("rolling_average")

readings = op.input("readings", flow, ReadingSource())
# → (sensor, (measured_at, degrees))

windows = win.fold_window(
    "last_hour",
    readings,
    clock,
    SlidingWindower(LENGTH, OFFSET, START),
    builder=nothing,
    folder=add,
    merger=merge,
)
# windows.down → (sensor, (window_id, (readings, sum)))

lines = op.map("line", windows.down, text)
# → one line of text per sensor and closed window
op.output("out", lines, StdOutSink())
