"""The flow of ``benchmarks.retention``: each key comes once, into a session and a tumbling window.

Event time is the time of emission, so windows close while the flow goes on. The flow and the
benchmark exchange files in a folder. ``first`` gets the time at which a window took the first item.
``settled`` gets the longest time between two calls of the source, once the last lifetime has
passed. The source ends as soon as there is a file ``release``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

BATCH = 1000
WINDOW_SECONDS = 2.0
_ALIGN = datetime(2024, 1, 1, tzinfo=timezone.utc)
_REST = timedelta(milliseconds=10)

Visit = tuple[str, datetime]


class _Visits(StatefulSourcePartition):
    """Each key once, then silence while its windows live and are forgotten."""

    def __init__(self, keys: int, settle: float, folder: Path, at: int) -> None:
        self._keys = keys
        self._settle = settle
        self._folder = folder
        self._at = at
        self._last = self._called = time.monotonic()
        self._longest = 0.0

    def next_batch(self) -> list[Visit]:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._called)
        self._called = now
        if self._at < self._keys:
            self._last = now
            return self._visits()
        if now > self._last + self._settle:
            self._say_settled()
            if (self._folder / "release").exists():
                raise StopIteration
        return []

    def _visits(self) -> list[Visit]:
        start, self._at = self._at, min(self._at + BATCH, self._keys)
        at = datetime.now(timezone.utc)
        return [(f"key-{number:07d}", at) for number in range(start, self._at)]

    def _say_settled(self) -> None:
        settled = self._folder / "settled"
        if not settled.exists():
            hidden = settled.with_suffix(".new")
            hidden.write_text(str(self._longest))
            hidden.rename(settled)

    def next_awake(self) -> datetime | None:
        return None if self._at < self._keys else datetime.now(timezone.utc) + _REST

    def snapshot(self) -> int:
        return self._at


class _VisitsSource(FixedPartitionedSource):
    def __init__(self, keys: int, settle: float, folder: Path) -> None:
        self._given = (keys, settle, folder)

    def list_parts(self) -> list[str]:
        return ["visits"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Visits:
        return _Visits(*self._given, resume_state or 0)


def _counter(first: Path) -> Callable[[int, Visit], int]:
    seen = False

    def count(total: int, _visit: Visit) -> int:
        nonlocal seen
        if not seen:
            seen = True
            hidden = first.with_suffix(".new")
            hidden.write_text(str(time.time()))
            hidden.rename(first)
        return total + 1

    return count


def windows(keys: int, settle: float, folder: str) -> Dataflow:
    """Build the flow.

    :arg keys: Distinct keys, each of which comes once.
    :arg settle: Seconds from the last item until every lifetime has passed.
    :arg folder: For the files.
    """
    flow = Dataflow("visits")
    visits = op.input("in", flow, _VisitsSource(keys, settle, Path(folder)))
    clock = win.EventClock(lambda at: at, timedelta(0))
    length = timedelta(seconds=WINDOW_SECONDS)
    count = _counter(Path(folder) / "first")
    for name, windower in (
        ("session", win.SessionWindower(gap=length)),
        ("tumbling", win.TumblingWindower(length=length, align_to=_ALIGN)),
    ):
        counted = win.fold_window(name, visits, clock, windower, int, count, lambda a, b: a + b)
        # Nothing comes out; the steps only have to be there and end.
        none = op.filter(f"{name}_none", counted.down, lambda _item: False)
        op.output(f"{name}_out", none, StdOutSink())
    return flow
