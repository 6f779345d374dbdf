"""Job (n): what a flow costs that has nothing to do, also with many windows of past dates open.

The source gives its items, rests, and is then silent for a while; the processor time of the flow's
process and of its children in that while is what counts. Bytewax calls each window whose end is
past by the clock on every activation, as long as no newer event closes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from benchmarks.contest import Contender, Contest, median_of
from benchmarks.event_time import PAST
from benchmarks.flow_run import OURS, STOCK, FlowRun, place_for, run_apart
from benchmarks.flows import BATCH, Load, Taker, Tally, names_of
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied

SETTLE, SILENCE = timedelta(seconds=3), timedelta(seconds=8)
PERCENT_AT_MOST = 1.0
WINDOWS = 10_000
_BOUND = 300.0
_FEW = 3


def processor_seconds() -> float:
    """Tell the processor time of this process and its children, so far."""
    return _seconds_of(os.getpid()) + sum(map(_seconds_of, _children()))


def _children() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _stat(path)
        if fields and int(fields[1]) == os.getpid():
            yield int(path.parent.name)


def _stat(path: Path) -> list[str]:
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []


def _seconds_of(process: int) -> float:
    fields = _stat(Path(f"/proc/{process}/stat"))
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


class _Part(StatefulSourcePartition[Any, int]):
    """Items, a rest, silence, the end."""

    def __init__(self, load: Load, tally: Tally) -> None:
        self._names, self._tally = names_of(load.keys), tally
        self._at = 0
        self._awake: datetime | None = None
        self._begun: tuple[float, float] | None = None

    def next_batch(self) -> list[Any]:
        if self._at < len(self._names):
            at, self._at = self._at, self._at + BATCH
            return [(name, PAST) for name in self._names[at : self._at]]
        now = time.monotonic()
        if self._awake is None:
            self._awake = datetime.now(timezone.utc) + SETTLE
        elif self._begun is None:
            self._begun = now, processor_seconds()
            self._awake = datetime.now(timezone.utc) + SILENCE
        else:
            began, used = self._begun
            self._tally.seen["percent"] = 100 * (processor_seconds() - used) / (now - began)
            raise StopIteration
        return []

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._at


class _Source(FixedPartitionedSource[Any, int]):
    def __init__(self, load: Load, tally: Tally) -> None:
        self._given = (load, tally)

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(*self._given)


def idle(load: Load, tally: Tally) -> Dataflow:
    """Build the flow: a window a key, which is past by the clock, and stays open to the end."""
    flow = Dataflow("idle")
    items = op.input("items", flow, _Source(load, tally))
    clock: win.EventClock[datetime] = win.EventClock(
        ts_getter=lambda at: at, wait_for_system_duration=timedelta(minutes=10)
    )
    windower = win.TumblingWindower(timedelta(minutes=1), PAST)
    folded = win.fold_window(
        "minute", items, clock, windower, int, lambda n, _at: n + 1, lambda a, b: a + b
    )

    def take(came: list[Any]) -> None:
        tally.counted += sum(count for _, (_, count) in came)

    op.output("out", folded.down, Taker(tally, lambda: take))
    return flow


def check_idle(load: Load, tally: Tally) -> None:
    """Require that each window was there until the end."""
    tally.require("windows", tally.counted, load.keys)


def _run(rival: str, keys: int, url: str) -> Run:
    load = Load(events=keys, keys=keys, hot=0, epoch=1.0)
    with emptied(url), place_for(rival) as place:
        told = run_apart(FlowRun(rival, "idle", load, url, place), _BOUND)
    return Run(round(told["percent"], 3))


def _named(scale: float) -> dict[str, tuple[str, int]]:
    many = max(10, int(WINDOWS * scale))
    return {
        f"{rival}, {text}": (rival, keys)
        for rival in (STOCK, OURS)
        for text, keys in (("1 window", 1), ("10,000 windows", many))
    }


@contextmanager
def _contenders(scale: float) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        yield [
            Contender(name, partial(_run, rival, keys, url))
            for name, (rival, keys) in _named(scale).items()
        ]


def contests(scale: float) -> list[Contest]:
    """Give the contest."""
    seconds = (SETTLE + SILENCE).total_seconds() + 2
    plan = {
        name: (seconds / scale, _FEW if rival == OURS else 1)
        for name, (rival, _) in _named(scale).items()
    }
    figures = [
        median_of(name, "% of a core", at_most=PERCENT_AT_MOST)
        for name, (rival, _) in _named(scale).items()
        if rival == OURS
    ]
    return [
        Contest(
            "n", "idle", "a flow without input, windows of past dates open: processor time",
            partial(_contenders, scale), plan, figures, unit="%", scale=scale,
        )
    ]  # fmt: skip
