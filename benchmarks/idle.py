"""Job (n): the processor time of a flow with nothing to do, and of its replicator.

A source gives each key one item and then nothing; CPU counts once the flow has come to rest. The
rival is stock Bytewax without recovery: we can't save its part. In one flow each key's item is in a
running sum, in the other in an open window of a past date: stock calls such windows all the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, run_main

from benchmarks.contest import Contender, Contest, median_of
from benchmarks.event_time import PAST
from benchmarks.flow_run import NONE, OURS, environment
from benchmarks.results import Run
from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery

PERCENT_AT_MOST = 1.0
KEYS, EPOCH, SECONDS = 10_000, 10.0, 10.0  # the engine's default epoch
_FEW = 3
_REST_SECONDS = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Idle:
    """CPU of a flow at rest, in percent of one core.

    :arg flow: Of the flow's process.
    :arg replicator: Of the process beside it.
    """

    flow: float
    replicator: float


class _RestingPartition(StatefulSourcePartition):
    def __init__(self, keys: int) -> None:
        self._left = [(f"key-{number}", 1) for number in range(keys)]
        self._awake: datetime | None = None

    def next_batch(self) -> list[tuple[str, int]]:
        batch, self._left = self._left, []
        # An epoch can't close before a source's next time.
        self._awake = datetime.now(timezone.utc) + timedelta(milliseconds=200)
        return batch

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> None:
        return None


class _RestingSource(FixedPartitionedSource):
    def __init__(self, keys: int) -> None:
        self._keys = keys

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _RestingPartition:
        return _RestingPartition(self._keys)


def waiting(keys: int) -> Dataflow:
    """Build a flow with an open window of a past date for each key."""
    flow = Dataflow("waiting")
    items = op.map_value("at", op.input("items", flow, _RestingSource(keys)), lambda _n: PAST)
    # The watermark, which moves with the wall's clock, gets nowhere near a window's end.
    clock: win.EventClock[datetime] = win.EventClock(lambda at: at, timedelta(minutes=10))
    windower = win.TumblingWindower(timedelta(minutes=1), PAST)
    counted = win.fold_window(
        "minute", items, clock, windower, int, lambda n, _at: n + 1, lambda a, b: a + b
    )
    op.output("out", counted.down, TestingSink([]))
    return flow


def resting(keys: int) -> Dataflow:
    """Build a flow of running sums that has nothing to do once each key has come."""
    flow = Dataflow("resting")
    items = op.input("items", flow, _RestingSource(keys))
    totals = op.stateful_map("sum", items, lambda total, n: ((total or 0) + n,) * 2)
    op.output("out", totals, TestingSink([]))
    return flow


FLOWS = {"running sums": resting, "open windows of past dates": waiting}


def _run(rival: str, flow: Dataflow, epoch: float, url: str) -> None:
    interval = timedelta(seconds=epoch)
    if rival == OURS:
        with RedisRecovery(url, namespace=f"idle-{time.time_ns()}").session(flow) as run:
            print(run.replicator_pid, flush=True)
            run_main(run.flow, epoch_interval=interval, recovery_config=run.recovery_config)
    else:
        print(0, flush=True)
        run_main(flow, epoch_interval=interval)


def _cpu(pid: int) -> float:
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def measure(rival: str, flow: str, keys: int, seconds: float, url: str) -> Idle:
    """Run a flow in a process of its own, and measure its processor time at rest."""
    command = [sys.executable, "-m", "benchmarks.idle", rival, flow, str(keys), url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    try:
        replicator = int(process.stdout.readline())
        time.sleep(_REST_SECONDS)
        pids = process.pid, replicator
        before, started = [_cpu(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - started
        used = [(_cpu(pid) - cpu) / took * 100 for pid, cpu in zip(pids, before, strict=True)]
        return Idle(*used)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Run a flow until this process is killed: ``RIVAL FLOW KEYS URL``."""
    rival, flow, keys, url = sys.argv[1:]
    _run(rival, FLOWS[flow](int(keys)), EPOCH, url)
    return 0


# -- the contest -------------------------------------------------------------------------------


def _name(rival: str, flow: str) -> str:
    return f"{rival}, {flow}"


def _measured(rival: str, flow: str, scale: float, url: str) -> Run:
    seconds = max(1.0, SECONDS * scale)
    found = measure(rival, flow, max(10, int(KEYS * scale)), seconds, url)
    both = found.flow + found.replicator
    return Run(round(both, 3), {"flow": round(found.flow, 3)})


@contextmanager
def _contenders(scale: float) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        yield [
            Contender(_name(rival, flow), partial(_measured, rival, flow, scale, url))
            for flow in FLOWS
            for rival in (NONE, OURS)
        ]


def contests(scale: float) -> list[Contest]:
    """Give the contest."""
    seconds = _REST_SECONDS + SECONDS + 1
    runs = {NONE: 1, OURS: _FEW}
    plan = {_name(rival, flow): (seconds, runs[rival]) for flow in FLOWS for rival in runs}
    figures = [
        median_of(_name(OURS, flow), "% of a core", at_most=PERCENT_AT_MOST) for flow in FLOWS
    ]
    return [
        Contest(
            "n", "idle", f"a flow with nothing to do, {KEYS:,} keys, epochs of {EPOCH:.0f} s: CPU",
            partial(_contenders, scale), plan, figures, unit="%", scale=scale,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
