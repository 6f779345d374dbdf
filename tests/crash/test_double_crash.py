"""The double crash: an epoch's first rows are written, then it is run again with fewer items.

Two numbers are to be summed, 1 and 1. The first run reads one of them and dies inside the epoch,
with the sum's row written. The second finds none of them yet, commits that epoch without any, and
dies. The third reads both: 2 is right. Stock recovery loads the row that no epoch ever committed.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.server.client import connect

from .processes import HERE, FlowProcess, wait_until

pytestmark = pytest.mark.crash

FLOW = HERE / "flows" / "one_item.py"
RIGHT, STOCK = 2, 3
Options = Callable[[Path], list[object]]  # folder of the run to what comes after the flow


def query(file: Path, sql: str) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            return database.execute(sql).fetchall()
    except sqlite3.OperationalError:  # not there yet
        return []


def part_file(folder: Path) -> Path:
    nowhere = folder / "part-0.sqlite3"
    try:
        return next(folder.rglob("part-0.sqlite3"), nowhere)
    except FileNotFoundError:  # a new scratch folder was given its name meanwhile
        return nowhere


def crash_twice(folder: Path, module: str, options: Options, files: Path | None) -> str:
    """Run three times, killing the first two runs; hand back the last line put out.

    :arg files: Where the recovery files are; ``None`` for the scratch of each run.
    """
    folder.mkdir(exist_ok=True)
    numbers, hold, end = folder / "numbers", folder / "hold", folder / "end"
    environ = {"ONE_ITEM_NUMBERS": str(numbers), "ONE_ITEM_HOLD": str(hold)}
    environ |= {"ONE_ITEM_END": str(end), "PATH": "/usr/bin:/bin"}

    def start(run: str) -> FlowProcess:
        own = folder / run
        command = [sys.executable, "-m", module, f"{FLOW}:flow", *options(own)]
        return FlowProcess(command, environ, own, own / "scratch")

    def rows(run: str, sql: str) -> list[tuple[object, ...]]:
        return query(part_file(files or folder / run / "scratch"), sql)

    table = "snaps" if files else "outbox"
    epoch = "snap_epoch" if files else "epoch"

    numbers.write_text("1\n")
    hold.touch()
    run = start("first")
    sql = f"SELECT {epoch} FROM {table} WHERE step_id LIKE 'one_item.sum.%'"
    assert wait_until(lambda: rows("first", sql), "the sum's row is written") == [(1,)]
    assert rows("first", "SELECT commit_epoch FROM commits") == []
    run.kill_group()

    numbers.write_text("")
    hold.unlink()
    run = start("second")
    committed = "SELECT 1 FROM commits WHERE commit_epoch > 1"
    wait_until(lambda: rows("second", committed), "epoch 1 is committed without an item")
    run.kill_group()

    numbers.write_text("1\n1\n")
    end.touch()
    run = start("third")
    assert run.wait() == 0, run.err
    return run.out.splitlines()[-1]


def test_ours_is_exact(redis_url: str, namespace: str, tmp_path: Path) -> None:
    def options(run: Path) -> list[object]:
        redis = ["--redis", redis_url, "--namespace", namespace]
        return [*redis, "-s", "0.2", "--checkpoint-interval", "0.2", "--scratch", run / "scratch"]

    answer = crash_twice(tmp_path / "ours", "bytewax_redis_state.run", options, None)
    assert int(answer) == RIGHT

    client = connect(RedisConfig(url=redis_url))
    data = client.get(FlowKeys(namespace, "one_item").state("sum", shard_of("sum", 64), "sum"))
    client.close()
    codec = Codec().bind(namespace=namespace, flow_id="one_item", step="sum")
    assert codec.decode("sum", data) == RIGHT


def test_stock_is_not(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    files = tmp_path / "recovery"
    files.mkdir()
    command = [sys.executable, "-m", "bytewax.recovery", files, "1"]
    subprocess.run(command, check=True, capture_output=True)

    def options(_run: Path) -> list[object]:
        return ["-r", files, "-s", "1", "-b", "0"]

    answer = int(crash_twice(tmp_path / "stock", "bytewax.run", options, files))
    record_property("answer of stock recovery, where 2 is right", answer)
    assert answer == STOCK
