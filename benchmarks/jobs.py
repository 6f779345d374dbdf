"""Two jobs, run by stock Bytewax with and without recovery and by ours, in turn: the ratios.

``python -m benchmarks.jobs [--job a|b] [--rounds N] [--scale F] [--json FILE]``

(a) 2M events over 100k keys, epochs of 0.5 s; (b) 200k keys of which 1,000 stay hot, 1M events,
epochs of 0.1 s. Each run is a process of its own; its time is that of the run, from resume to
drain, without the start of Python. Stock takes minutes for (b).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main
from rich.console import Console
from rich.table import Table

from benchmarks.flows import Load, sums
from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery

JOBS = {
    "a": Load(events=2_000_000, keys=100_000, hot=0, epoch=0.5),
    "b": Load(events=1_000_000, keys=200_000, hot=1_000, epoch=0.1),
}
EXPECTED = {"a": 2.0, "b": 30.0}
RIVALS = ("without recovery", "stock recovery", "ours")


def scaled(job: str, scale: float) -> Load:
    """Give a job's load, made smaller."""
    load = JOBS[job]
    return replace(load, events=int(load.events * scale), keys=int(load.keys * scale))


def run_once(rival: str, load: Load, url: str) -> float:
    """Run a rival in this process; gives its seconds."""
    flow, epoch = sums(load), timedelta(seconds=load.epoch)
    started = time.monotonic()
    if rival == "ours":
        namespace = f"bench-{time.time_ns()}"
        RedisRecovery(url, namespace=namespace).run(flow, epoch_interval=epoch)
    elif rival == "stock recovery":
        with tempfile.TemporaryDirectory() as folder:
            init_db_dir(folder, 1)
            started = time.monotonic()
            config = RecoveryConfig(folder, timedelta(0))
            run_main(flow, epoch_interval=epoch, recovery_config=config)
            return time.monotonic() - started
    else:
        run_main(flow, epoch_interval=epoch)
    return time.monotonic() - started


def run_apart(rival: str, job: str, scale: float, url: str) -> float:
    """Run a rival in a process of its own; gives its seconds."""
    command = [sys.executable, "-m", "benchmarks.jobs", "--one", rival, "--job", job]
    command += ["--scale", str(scale), "--redis", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    """Run the jobs and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--job", choices=sorted(JOBS), action="append")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each rival, in turn")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the events and keys")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", choices=RIVALS, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(run_once(args.one, scaled(args.job[0], args.scale), args.redis))
        return 0
    jobs = args.job or sorted(JOBS)
    figures = {job: measure(job, args.rounds, args.scale) for job in jobs}
    Console().print(table(figures))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(job: str, rounds: int, scale: float) -> dict[str, list[float]]:
    """Run all rivals in turn; gives each one's seconds."""
    seconds: dict[str, list[float]] = {rival: [] for rival in RIVALS}
    with benchmark_server() as url:
        for number in range(rounds):
            for rival in RIVALS:
                took = run_apart(rival, job, scale, url)
                seconds[rival].append(took)
                print(f"job {job}, round {number + 1}, {rival}: {took:.2f} s", file=sys.stderr)
    return seconds


def table(figures: dict[str, dict[str, list[float]]]) -> Table:
    """Render medians and the ratios between runs of one round."""
    made = Table("job", *RIVALS, "stock : ours", "without : ours", "expected")
    for job, seconds in figures.items():
        medians = [statistics.median(seconds[rival]) for rival in RIVALS]
        ratios = [
            statistics.median(a / b for a, b in zip(seconds[rival], seconds["ours"], strict=True))
            for rival in ("stock recovery", "without recovery")
        ]
        made.add_row(
            job,
            *(f"{median:.1f} s" for median in medians),
            *(f"{ratio:.2f}×" for ratio in ratios),
            f"≥ {EXPECTED[job]:.0f}× stock",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
