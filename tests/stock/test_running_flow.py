"""A directory that a flow runs on is refused, also where the flow starts while it is read."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from bytewax_redis_state.errors import StockStoreInUseError
from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import take_inventory
from tests.stock import stock_runs as stock
from tests.stock.stock_runs import inventory_of, refusal

KEYS = 7


def test_a_running_flow(tmp_path):
    folder = stock.make_store(tmp_path / "db", 3)
    with stock.running(folder):
        assert re.search(r"process \d+ holds part-\d", refusal(folder, StockStoreInUseError))
    assert inventory_of(folder).total.live_keys == 3 * KEYS + 1


def test_a_flow_that_starts_while_we_read(store):
    with RecoveryDirectory(store) as opened:
        stock.execute(stock.part(store), "DELETE FROM fronts")
        with pytest.raises(StockStoreInUseError, match="its files changed while they were read"):
            take_inventory(opened)


def test_somebody_else_who_only_reads_is_no_flow(store):
    with RecoveryDirectory(store) as opened, closing(sqlite3.connect(stock.part(store))) as reader:
        reader.execute("SELECT * FROM parts").fetchall()
        assert (store / "part-0.sqlite3-wal").exists()
        take_inventory(opened)


def test_a_log_that_grows_while_we_read(tmp_path):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    with RecoveryDirectory(folder) as opened:
        with (folder / "part-0.sqlite3-wal").open("ab") as log:
            log.write(b"more")
        with pytest.raises(StockStoreInUseError):
            take_inventory(opened)
