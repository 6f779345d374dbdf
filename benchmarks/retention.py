"""The rows that remain of keys that came once, and the time of a resume then: stock and ours.

``python -m benchmarks.retention [--keys N] [--quick] [--side stock|ours] [--json FILE]``

Each key is in one session and one tumbling window of 2 s. The source stays open until the last
window has closed and its grace has passed; then the rows that are left are counted. Then a process
starts again with more input, and the time from its start to the first item that a window takes is
its resume; stock is given up after 300 s. Both run as users run them: from the command line, with
epochs of a second.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax.recovery import init_db_dir
from rich.console import Console
from rich.table import Table

from benchmarks.retention_flow import BATCH
from benchmarks.server import benchmark_server
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import take_inventory
from bytewax_redis_state.stock.resume_estimate import stock_resume_seconds

KEYS, QUICK_KEYS = 500_000, 20_000
RESUME_BOUND = 300.0
RUN_BOUND = 3600.0
GRACE_SECONDS = 2.0
CHECKPOINT_SECONDS = 2.0
SETTLE_SECONDS = 20.0  # several lifetimes of 2 s + 2 s, and the checkpoints after them
DRAIN_SECONDS = 120.0
OUTBOX_SECONDS, OUTBOX_FEW = 90.0, 200
NAMESPACE, FLOW_ID = "bytewax", "visits"
Figures = dict[str, Any]


class Side:
    """A way to run the flow.

    :arg runner: Module of the command line.
    :arg options: Where state goes.
    """

    def __init__(self, runner: str, *options: str) -> None:
        self._command = [sys.executable, "-m", runner]
        self._options = [*options, "-s", "1"]

    @contextmanager
    def started(self, keys: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; ended at the end of the block, with time to drain."""
        for name in ("first", "settled", "release"):
            (folder / name).unlink(missing_ok=True)
        flow = f"benchmarks.retention_flow:windows({keys}, {SETTLE_SECONDS}, {str(folder)!r})"
        # An interrupted engine prints where it was; nobody wants that between the figures.
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([*self._command, flow, *self._options], stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=DRAIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def resume_seconds(self, keys: int, folder: Path, bound: float) -> float | None:
        """Start with more input; gives the seconds to the first item, ``None`` if too many."""
        started = time.time()
        with self.started(keys + BATCH, folder) as process:
            if not appeared(folder / "first", process, bound):
                return None
            return float((folder / "first").read_text()) - started


def appeared(path: Path, process: subprocess.Popen[bytes], bound: float) -> bool:
    """Wait for a file; gives whether it came in time."""
    deadline = time.monotonic() + bound
    while not path.exists():
        if process.poll() is not None:
            print((path.parent / "log").read_text()[-2000:], file=sys.stderr)
            raise RuntimeError(f"the flow ended with {process.returncode} before {path.name}")
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def run_until_settled(side: Side, keys: int, folder: Path, measure: Any) -> Figures:
    """Run to the end; measure before the source ends."""
    started = time.monotonic()
    with side.started(keys, folder) as process:
        if not appeared(folder / "settled", process, RUN_BOUND):
            raise RuntimeError(f"not settled after {RUN_BOUND} s")
        figures = {
            "settled_seconds": time.monotonic() - started,
            "longest_pause_seconds": float((folder / "settled").read_text()),
            **measure(),
        }
        (folder / "release").touch()
        if process.wait(timeout=RUN_BOUND):
            raise RuntimeError(f"the flow ended with {process.returncode}")
    return figures | {"run_seconds": time.monotonic() - started}


# -- stock -------------------------------------------------------------------------------------


def run_stock(keys: int, folder: Path, bound: float) -> Figures:
    """Run on stock recovery, in one partition."""
    store = folder / "recovery"
    store.mkdir()
    init_db_dir(store, 1)
    side = Side("bytewax.run", "-r", str(store), "-b", "0")
    figures = run_until_settled(side, keys, folder, dict)
    with RecoveryDirectory(store) as opened:
        inventory = take_inventory(opened)
    steps = {step.step_id.split(".")[1]: step for step in inventory.steps}
    figures["rows"] = {name: step.rows for name, step in steps.items()}
    figures["idle_window_keys"] = inventory.total.idle_window_keys
    figures["tombstones"] = inventory.total.tombstones
    figures["file_bytes"] = inventory.file_bytes
    figures["estimated_resume_seconds"] = stock_resume_seconds(
        inventory.partitions, inventory.workers
    )
    figures["resume_seconds"] = side.resume_seconds(keys, folder, bound)
    return figures


# -- ours --------------------------------------------------------------------------------------


def run_ours(keys: int, folder: Path, bound: float) -> Figures:
    """Run with state in Redis and retention of windows."""
    scratch = folder / "scratch"
    with benchmark_server() as url:
        options = ["--redis", url, "--scratch", str(scratch), "--namespace", NAMESPACE]
        options += ["--window-grace", str(GRACE_SECONDS)]
        options += ["--checkpoint-interval", str(CHECKPOINT_SECONDS)]
        side = Side("bytewax_redis_state.run", *options)
        figures = run_until_settled(
            side,
            keys,
            folder,
            lambda: {"keys_when_settled": keys_left(url), "outbox_rows": outbox_left(scratch)},
        )
        figures["rows"] = keys_left(url)
        figures["resume_seconds"] = side.resume_seconds(keys, folder, bound)
    return figures


def keys_left(url: str) -> dict[str, int]:
    """Count the state keys in Redis, by step."""
    keys = FlowKeys(NAMESPACE, FLOW_ID)
    with connect(RedisConfig(url=url).patient(timedelta(seconds=30))) as client:
        found = (keys.parse_state(key) for key in client.scan_iter(keys.state_pattern, 1000))
        return dict(Counter(at[0] for at in found if at is not None))


def outbox_left(scratch: Path) -> int:
    """Count the outbox's rows once those that it keeps for a minute are gone.

    Every epoch brings a mark and a row of the source, and those of the last minute stay.
    """
    deadline = time.monotonic() + OUTBOX_SECONDS
    while (rows := outbox_rows(scratch)) > OUTBOX_FEW and time.monotonic() < deadline:
        time.sleep(1)
    return rows


def outbox_rows(scratch: Path) -> int:
    """Count the rows of the running flow's outbox, shipped or not."""
    rows = 0
    for path in scratch.glob("*/part-*.sqlite3"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            rows += db.execute("SELECT count(*) FROM outbox").fetchone()[0]
    return rows


# -- both --------------------------------------------------------------------------------------

SIDES = {"stock": run_stock, "ours": run_ours}


def main() -> int:
    """Run both sides and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("--keys", type=int, help=f"distinct keys (default {KEYS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KEYS} keys")
    parser.add_argument("--side", choices=sorted(SIDES), action="append", help="only this one")
    parser.add_argument(
        "--bound", type=float, default=RESUME_BOUND, help="seconds after which a resume is given up"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    keys = args.keys or (QUICK_KEYS if args.quick else KEYS)
    figures = {}
    for name in args.side or ["stock", "ours"]:
        with tempfile.TemporaryDirectory(prefix="bench-retention-") as folder:
            figures[name] = SIDES[name](keys, Path(folder), args.bound)
        print(f"{name}: {figures[name]}", file=sys.stderr)
    Console().print(table(keys, figures, args.bound))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"keys": keys, **figures}, indent=2) + "\n")
    return 0


def table(keys: int, figures: dict[str, Figures], bound: float) -> Table:
    """Render the rows that remain and the times."""
    made = Table(f"{keys:,} keys", *figures)
    lines: Sequence[tuple[str, Any]] = (
        ("rows left, session", lambda f: f"{f['rows'].get('session', 0):,}"),
        ("rows left, tumbling", lambda f: f"{f['rows'].get('tumbling', 0):,}"),
        ("rows in the outbox", lambda f: f"{f['outbox_rows']:,}" if "outbox_rows" in f else "–"),
        ("longest pause of the source", lambda f: f"{f['longest_pause_seconds']:.1f} s"),
        ("run", lambda f: f"{f['run_seconds']:.0f} s"),
        ("start to first new item", lambda f: within(f["resume_seconds"], bound)),
    )
    for title, cell in lines:
        made.add_row(title, *(cell(side) for side in figures.values()))
    return made


def within(seconds: float | None, bound: float) -> str:
    return f"> {bound:.0f} s" if seconds is None else f"{seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
