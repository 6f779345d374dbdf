"""A flow with all fast windows, whose lines follow from its readings: each exactly once.

Reading `n` of a part follows from `n` alone, and all readings of a key come from one part, in one
order. Times are whole tens of minutes, windows begin and end at such times, and the watermark is
five minutes off them: what is late, and what closes, is the same on the system's clock, for five
minutes, as on one that stands still.

=========  ======================================================================
`count`    tumbling windows, on a clock that stands still
`fold`     sliding windows, on the system's clock
`collect`  tumbling windows, on the system's clock, in the order of arrival
`visits`   session windows, on the system's clock
`in`       source: the last reading of each part
`out`      sink: bytes written to each file; cut back to that on resume
=========  ======================================================================

Settings, from the environment: HOLD (the reading after which no more come, while the source stays
open), PAUSE (seconds between two batches), OUT (directory).
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import (
    EventClock,
    SessionWindower,
    SlidingWindower,
    TumblingWindower,
)
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

HOLD = int(os.environ.get("HOLD", "0"))
PAUSE = timedelta(seconds=float(os.environ.get("PAUSE", "0")))
OUT = Path(os.environ.get("OUT", "readings"))

PARTS = ("a", "b")
READINGS = 360
BATCH = 5
START = datetime(2024, 1, 1, tzinfo=timezone.utc)
TICK = timedelta(minutes=10)
WAIT = 4.5 * TICK
LENGTH = 6 * TICK
OFFSET = 2 * TICK
GAP = 2 * TICK

Reading = tuple[str, tuple[datetime, int]]  # key, taken at, number


def reading(part: str, number: int) -> Reading:
    """Make a reading: some come out of order, some too late."""
    age = (0, 1, 0, 4, 2, 0, 9)[number % 7]
    return f"{part}{number % 3}", (START + (number // 3 - age) * TICK, number)


class _Part(StatefulSourcePartition[Reading, int]):
    def __init__(self, part: str, number: int):
        self._part = part
        self._number = number
        self._awake: datetime | None = None

    def next_batch(self) -> list[Reading]:
        if self._number == READINGS:
            raise StopIteration
        since, self._number = self._number, min(self._number + BATCH, HOLD or READINGS)
        if PAUSE:
            self._awake = datetime.now(timezone.utc) + PAUSE
        return [reading(self._part, number) for number in range(since, self._number)]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._number


class Readings(FixedPartitionedSource[Reading, int]):
    def list_parts(self) -> list[str]:
        return [*PARTS]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(for_part, resume_state or 0)


class _File(StatefulSinkPartition[str, int]):
    def __init__(self, path: Path, length: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(length)
        self._length = length

    def write_batch(self, values: list[str]) -> None:
        self._length += self._file.write("".join(f"{line}\n" for line in values).encode())

    def snapshot(self) -> int:
        return self._length

    def close(self) -> None:
        self._file.close()


class Files(FixedPartitionedSink[str, int]):
    def list_parts(self) -> list[str]:
        return ["0", "1"]

    def part_fn(self, item_key: str) -> int:
        return crc32(item_key.encode())

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _File:
        return _File(OUT / f"{for_part}.txt", resume_state or 0)


def line(step: str, stream: str, key: str, window_id: int, what: Any) -> str:
    return json.dumps([step, stream, key, window_id, what])


def lines_of(step: str, out: win.WindowOut[Any, Any]) -> list[Any]:
    """Make lines of all that comes out of a window step."""

    def times(meta: win.WindowMetadata) -> list[str]:
        return [meta.open_time.isoformat(), meta.close_time.isoformat()]

    def lines(stream: str, up: Any, what: Any) -> Any:
        def make(item: Any) -> tuple[str, str]:
            key, (window_id, value) = item
            return key, line(step, stream, key, window_id, what(value))

        return op.map(f"{step}_{stream}", up, make)

    # count_window hands over the whole item, the others its value.
    late = (lambda item: item[1][1]) if step == "count" else (lambda value: value[1])
    done = (lambda values: [n for _at, n in values]) if step == "collect" else (lambda done: done)
    return [
        lines("down", out.down, done),
        lines("late", out.late, late),
        lines("meta", out.meta, times),
    ]


def get_flow() -> Dataflow:
    flow = Dataflow("readings")
    readings = op.input("in", flow, Readings())
    still = EventClock(
        lambda item: item[1][0],
        wait_for_system_duration=WAIT,
        now_getter=lambda: START,
        to_system_utc=lambda _at: None,
    )
    system = EventClock(lambda value: value[0], wait_for_system_duration=WAIT)
    tumbling = TumblingWindower(length=LENGTH, align_to=START)
    sliding = SlidingWindower(length=LENGTH, offset=OFFSET, align_to=START)
    count = win.count_window("count", readings, still, tumbling, lambda item: item[0])
    fold = win.fold_window(
        "fold", readings, system, sliding, list, lambda seen, value: [*seen, value[1]], list.__add__
    )
    collect = win.collect_window("collect", readings, system, tumbling, ordered=False)
    visits = win.fold_window(
        "visits",
        readings,
        system,
        SessionWindower(gap=GAP),
        list,
        lambda seen, value: [*seen, value[1]],
        list.__add__,
    )
    lines = [
        *lines_of("count", count),
        *lines_of("fold", fold),
        *lines_of("collect", collect),
        *lines_of("visits", visits),
    ]
    op.output("out", op.merge("lines", *lines), Files())
    return flow


flow = get_flow()
