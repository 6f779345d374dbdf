"""Runs of stock Bytewax in processes of their own, and what their stores hold, by plain SQL."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.errors import StockStoreError
from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import Inventory, take_inventory

FLOWS = Path(__file__).with_name("stock_flows.py")


def make_store(folder: Path, parts: int) -> Path:
    folder.mkdir()
    init_db_dir(folder, parts)
    return folder


def part(store: Path, index: int = 0) -> Path:
    return store / f"part-{index}.sqlite3"


@contextmanager
def started(flow: str, store: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a flow; killed at the end of the block."""
    command = [sys.executable, "-m", "bytewax.run", f"{FLOWS}:{flow}", "-r", str(store)]
    process = subprocess.Popen(
        [*command, "-s", "0", "-b", "0", *options],
        env={**os.environ, "STOCK_STARTED": str(store.parent / "started")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(flow: str, store: Path, *options: str) -> Path:
    """Run a flow to its end."""
    with started(flow, store, *options) as process:
        assert process.wait(timeout=BOUND_SECONDS) == 0
    return store


def kill_open(store: Path) -> Path:
    """Kill a flow that has windows open; leaves logs."""
    with running(store):
        pass
    return store


@contextmanager
def running(store: Path) -> Iterator[None]:
    """Keep a flow running that has windows open."""
    with started("endless", store) as process:
        mark = store.parent / "started"
        wait_for(lambda: mark.exists() and len(live(store)) >= 22, process)
        yield
        assert process.poll() is None, "the flow ended"


def kill_stuck(store: Path) -> Path:
    """Kill a flow that has written rows of an epoch that never completed."""
    with started("stuck", store, "-w", "2") as process:
        wait_for(lambda: _is_stuck(store), process)
    return store


def _is_stuck(store: Path) -> bool:
    """Rows of an epoch that is only just being written stand above, too, for a moment."""
    before = resume_epoch(store), above(store)
    time.sleep(0.3)
    return before[1] > 0 and before == (resume_epoch(store), above(store))


def wait_for(condition, process: subprocess.Popen[bytes], seconds: float = BOUND_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the flow ended"
        assert time.monotonic() < deadline, "the flow never got there"
        time.sleep(0.02)


def query(store: Path, sql: str) -> list[tuple]:
    """Ask all files; only where a trace beside them does no harm."""
    rows = []
    for path in sorted(store.glob("*.sqlite3")):
        with closing(sqlite3.connect(path, timeout=10)) as db:
            rows += db.execute(sql).fetchall()
    return rows


def execute(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(sql, values)
        db.commit()


def live(store: Path) -> list[tuple]:
    return query(store, "SELECT DISTINCT step_id, state_key FROM snaps")


def resume_epoch(store: Path) -> int:
    """What the frontiers say: right where there was one execution that got somewhere."""
    frontiers: dict[int, int] = {}
    for worker, epoch in query(store, "SELECT worker_index, worker_frontier FROM fronts"):
        frontiers[worker] = max(epoch, frontiers.get(worker, 0))
    return min(frontiers.values(), default=1)


def above(store: Path) -> int:
    epoch = resume_epoch(store)
    return sum(
        n for (n,) in query(store, f"SELECT count(*) FROM snaps WHERE snap_epoch >= {epoch}")
    )


def looks(store: Path) -> dict[str, tuple[bytes, int]]:
    """Everything in a folder: content and time of change."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(store.iterdir())}


def inventory_of(store: Path) -> Inventory:
    with RecoveryDirectory(store) as opened:
        return take_inventory(opened)


def refusal(store: Path, kind: type[StockStoreError] = StockStoreError) -> str:
    """Ask for the inventory of a directory that must be refused; gives the error's text."""
    with pytest.raises(StockStoreError) as caught:
        inventory_of(store)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)
