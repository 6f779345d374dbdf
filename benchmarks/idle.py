"""What a flow with nothing to do costs: CPU of its process and of its replicator.

``python -m benchmarks.idle [--epoch SECONDS …] [--keys N] [--seconds N] [--json FILE]``

A source gives each key one item and then nothing, a minute at a time; CPU counts once the flow has
come to rest. Beside it runs stock Bytewax without recovery: its part is not ours to save.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink, run_main
from rich.console import Console
from rich.table import Table

from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery

PERCENT_AT_MOST = 1.0
_REST_SECONDS = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Idle:
    """CPU of a flow at rest, in percent of one core.

    :arg rival: ``ours`` or ``without recovery``.
    :arg epoch: Seconds between two commits.
    :arg flow: Of the flow's process.
    :arg replicator: Of the process beside it.
    """

    rival: str
    epoch: float
    flow: float
    replicator: float


class _Resting(StatefulSourcePartition):
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


class _Source(FixedPartitionedSource):
    def __init__(self, keys: int) -> None:
        self._keys = keys

    def list_parts(self) -> list[str]:
        return ["items"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Resting:
        return _Resting(self._keys)


def resting(keys: int) -> Dataflow:
    """Build a flow of running sums that has nothing to do once each key has come."""
    flow = Dataflow("resting")
    items = op.input("items", flow, _Source(keys))
    totals = op.stateful_map("sum", items, lambda total, n: ((total or 0) + n,) * 2)
    op.output("out", totals, TestingSink([]))
    return flow


def _run(rival: str, keys: int, epoch: float, url: str) -> None:
    interval = timedelta(seconds=epoch)
    if rival == "ours":
        with RedisRecovery(url, namespace=f"idle-{time.time_ns()}").session(resting(keys)) as run:
            print(run.replicator_pid, flush=True)
            run_main(run.flow, epoch_interval=interval, recovery_config=run.recovery_config)
    else:
        print(0, flush=True)
        run_main(resting(keys), epoch_interval=interval)


def _cpu(pid: int) -> float:
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def measure(rival: str, keys: int, epoch: float, seconds: float, url: str) -> Idle:
    """Run a flow in a process of its own, and see what it uses at rest."""
    command = [sys.executable, "-m", "benchmarks.idle", "--one", rival, "--redis", url]
    command += ["--keys", str(keys), "--epoch", str(epoch)]
    flow = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert flow.stdout is not None
    try:
        replicator = int(flow.stdout.readline())
        time.sleep(_REST_SECONDS)
        pids = flow.pid, replicator
        before, started = [_cpu(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - started
        used = [(_cpu(pid) - cpu) / took * 100 for pid, cpu in zip(pids, before, strict=True)]
        return Idle(rival, epoch, *used)
    finally:
        flow.kill()
        flow.wait()


def figures(keys: int, epochs: list[float], seconds: float) -> Iterator[Idle]:
    """Measure each length of an epoch, ours and stock in turn."""
    with benchmark_server() as url:
        for epoch in epochs:
            for rival in ("ours", "without recovery"):
                yield measure(rival, keys, epoch, seconds, url)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--epoch", type=float, nargs="+", default=[10.0, 1.0])
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        _run(args.one, args.keys, args.epoch[0], args.redis)
        return 0
    found = list(figures(args.keys, args.epoch, args.seconds))
    made = Table("epoch", "run", "flow", "replicator", "both", "expected")
    for one in found:
        both = one.flow + one.replicator
        least = f"< {PERCENT_AT_MOST:.0f} %" if one.rival == "ours" else ""
        cells = (f"{value:.2f} %" for value in (one.flow, one.replicator, both))
        made.add_row(f"{one.epoch:g} s", one.rival, *cells, least)
    Console().print(made)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
