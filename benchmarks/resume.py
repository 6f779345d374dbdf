"""How long a flow with much state takes from its start to its first new item.

``python -m benchmarks.resume [--keys N …] [--rounds N] [--json FILE]``

A first run gives each key a state and ends; then a process starts anew with more input, and the
time from its start (Python's own included) to the first item that comes out is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.flows import BATCH, Load, sums
from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery

EXPECTED_SECONDS = 8.0


def load_of(keys: int, rounds: int) -> Load:
    """Each key once, and a batch for each start after that."""
    return Load(events=keys + rounds * BATCH, keys=keys, hot=0, epoch=1.0)


def run_once(keys: int, starts: int, url: str) -> None:
    """Run in this process; prints when the first item came out, and what was resumed."""
    first: list[float] = []
    flow = sums(load_of(keys, starts), first.append)
    resumed = RedisRecovery(url, namespace=f"resume-{keys}").run(
        flow, epoch_interval=timedelta(seconds=1)
    )
    print(json.dumps({"first": first[0], "seconds": resumed.seconds, "keys": resumed.keys}))


def run_apart(keys: int, starts: int, url: str) -> dict[str, float]:
    """Run in a process of its own; gives its seconds to the first item, and of the resume."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.resume", "--one", str(starts)]
    command += ["--keys", str(keys), "--redis", url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    restored = told["keys"].get("sum", 0)
    if restored != (keys if starts else 0):
        raise RuntimeError(f"{restored} keys were restored, {keys} are there")
    return {"first_item": told["first"] - started, "resume": told["seconds"]}


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        run_once(args.keys[0], args.one, args.redis)
        return 0
    figures = {keys: measure(keys, args.rounds) for keys in args.keys}
    made = Table("keys", "resume", "start to first new item", "expected at 1M")
    for keys, seconds in figures.items():
        made.add_row(
            f"{keys:,}",
            f"{statistics.median(s['resume'] for s in seconds):.2f} s",
            f"{statistics.median(s['first_item'] for s in seconds):.2f} s",
            f"≤ {EXPECTED_SECONDS:.0f} s",
        )
    Console().print(made)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(keys: int, rounds: int) -> list[dict[str, float]]:
    """Fill a server, then start anew so many times."""
    with benchmark_server() as url:
        run_apart(keys, 0, url)
        seconds = []
        for number in range(rounds):
            seconds.append(run_apart(keys, number + 1, url))
            print(f"{keys:,} keys, start {number + 1}: {seconds[-1]}", file=sys.stderr)
        return seconds


if __name__ == "__main__":
    sys.exit(main())
