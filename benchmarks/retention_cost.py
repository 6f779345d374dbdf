"""The cost of retention: a window job and a job of sums, each with and without it, in turn.

``python -m benchmarks.retention_cost [--rounds N] [--scale F] [--json FILE]``

The window job counts 200k events over 10k keys in tumbling and in session windows of event time;
the other one keeps running sums of 1M events over 100k keys. Each run is a process of its own, with
state in Redis; its time is from resume to drain. Then a million idle keys of one step come due at
once: how long the longest activation of the engine is, in which every shard drops what it may.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from rich.console import Console
from rich.table import Table

from benchmarks.flows import Load, sums
from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.steps import kind_of

EVENTS = {"windows": 200_000, "sums": 1_000_000}
WINDOW_KEYS, SUM_KEYS = 10_000, 100_000
DUE_KEYS, SHARDS = 1_000_000, 64
BATCH = 1000
START = datetime(2024, 1, 1, tzinfo=timezone.utc)
LENGTH = timedelta(seconds=60)
HOUR = timedelta(hours=1)
EXPECTED = 0.95


class _EventsPartition(StatefulSourcePartition):
    def __init__(self, events: int, at: int) -> None:
        self._events = events
        self._at = at

    def next_batch(self) -> list[tuple[str, datetime]]:
        if self._at >= self._events:
            raise StopIteration
        start, self._at = self._at, min(self._at + BATCH, self._events)
        at = START + timedelta(milliseconds=5 * start)
        return [(f"key-{number % WINDOW_KEYS:05d}", at) for number in range(start, self._at)]

    def snapshot(self) -> int:
        return self._at


class _EventsSource(FixedPartitionedSource):
    def __init__(self, events: int) -> None:
        self._events = events

    def list_parts(self) -> list[str]:
        return ["events"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _EventsPartition:
        return _EventsPartition(self._events, resume_state or 0)


def windows(events: int) -> Dataflow:
    """Build the window job: a clock that stands still, so that no run sees another time."""
    flow = Dataflow("windows")
    came = op.input("in", flow, _EventsSource(events))
    clock = win.EventClock(
        lambda at: at, timedelta(0), now_getter=lambda: START, to_system_utc=lambda _at: None
    )
    for name, windower in (
        ("tumbling", win.TumblingWindower(LENGTH, START)),
        ("session", win.SessionWindower(LENGTH / 10)),
    ):
        counted = win.fold_window(
            name, came, clock, windower, int, lambda count, _: count + 1, lambda a, b: a + b
        )
        none = op.filter(f"{name}_none", counted.down, lambda _item: False)
        op.output(f"{name}_out", none, StdOutSink())
    return flow


JOBS: dict[str, tuple[Callable[[int], Dataflow], dict[str, timedelta | None]]] = {
    "windows": (windows, {"tumbling": HOUR, "session": HOUR}),
    "sums": (lambda events: sums(Load(events, SUM_KEYS, 0, 0.5)), {"sum": HOUR}),
}
RIVALS = ("without", "with")


def run_once(rival: str, job: str, scale: float, url: str) -> float:
    """Run a rival in this process; gives its seconds."""
    build, kept = JOBS[job]
    flow = build(int(EVENTS[job] * scale))
    retention = kept if rival == "with" else dict.fromkeys(kept)
    started = time.monotonic()
    recovery = RedisRecovery(url, namespace=f"bench-{time.time_ns()}", retention=retention)
    recovery.run(flow, epoch_interval=timedelta(seconds=0.5))
    return time.monotonic() - started


def run_apart(rival: str, job: str, scale: float, url: str) -> float:
    """Run a rival in a process of its own; gives its seconds."""
    command = [sys.executable, "-m", "benchmarks.retention_cost", "--one", rival, "--job", job]
    command += ["--scale", str(scale), "--redis", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def builder_in(steps: Any) -> Any:
    """Find the builder of the logics of a flow's keyed step."""
    for step in steps:
        builder = step.builder if kind_of(step) == "keyed" else builder_in(step.substeps)
        if builder is not None:
            return builder
    return None


def longest_activation(keys: int) -> tuple[float, int]:
    """Let keys of one step come due at once; gives the longest activation and their number."""
    now = [0]
    lifetime = Lifetime(HOUR, lambda: now[0])
    codec = Codec().bind(namespace="n", flow_id="f", step="s")
    builder = builder_in(sums(Load(0, 0, 0, 0.5)).substeps)
    shards = [ShardLogic("s", builder, codec, lifetime) for _ in range(SHARDS)]
    for number, shard in enumerate(shards):
        shard.on_batch([{f"key-{n}": [1] for n in range(number, keys, SHARDS)}])
        shard.notify_at()
        shard.snapshot()
    now[0] = 2 * 3600 * 1000
    longest, activations = 0.0, 0
    while any(len(shard._deadlines) for shard in shards):
        started = time.perf_counter()
        for shard in shards:
            shard.on_notify()
            shard.notify_at()
        longest = max(longest, time.perf_counter() - started)
        activations += 1
    return longest, activations


def main() -> int:
    """Run the jobs and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retention_cost", description=__doc__
    )
    parser.add_argument("--job", choices=sorted(JOBS), action="append")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the events and keys")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(run_once(args.one, args.job[0], args.scale, args.redis))
        return 0
    figures: dict[str, Any] = {}
    made = Table("job", *RIVALS, "throughput", "expected")
    for job in args.job or sorted(JOBS):
        seconds = measure(job, args.rounds, args.scale)
        ratios = [a / b for a, b in zip(seconds["without"], seconds["with"], strict=True)]
        ratio = statistics.median(ratios)
        medians = [statistics.median(seconds[rival]) for rival in RIVALS]
        made.add_row(job, *(f"{m:.2f} s" for m in medians), f"{ratio:.3f}×", f"≥ {EXPECTED}×")
        figures[job] = {**seconds, "ratio": ratio}
    longest, activations = longest_activation(int(DUE_KEYS * args.scale))
    figures["longest_activation_seconds"] = longest
    console = Console()
    console.print(made)
    console.print(
        f"{int(DUE_KEYS * args.scale):,} keys due at once: dropped in {activations} activations, "
        f"the longest took {longest * 1000:.1f} ms"
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(job: str, rounds: int, scale: float) -> dict[str, list[float]]:
    """Run both rivals in turn, after a warm-up; gives each one's seconds."""
    seconds: dict[str, list[float]] = {rival: [] for rival in RIVALS}
    with benchmark_server() as url:
        run_apart(RIVALS[0], job, scale / 10, url)
        for number in range(rounds):
            for rival in RIVALS if number % 2 else RIVALS[::-1]:
                took = run_apart(rival, job, scale, url)
                seconds[rival].append(took)
                print(f"{job}, round {number + 1}, {rival}: {took:.2f} s", file=sys.stderr)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
