"""The rows of a recovery directory are counted right, and no row gets to run anything."""

from __future__ import annotations

import os
import pickle

import pytest
from bytewax.operators import windowing as win

from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import take_inventory
from bytewax_redis_state.stock.resume_estimate import stock_resume_seconds
from tests.stock import stock_runs as stock
from tests.stock.stock_runs import inventory_of

SOURCE = "shop.in"
SESSION = "shop.session.fold_window.window.stateful_batch"
TUMBLE = "shop.tumble.fold_window.window.stateful_batch"
TOTAL = "shop.total.stateful_flat_map.stateful.stateful_batch"
KEYS = 7


def counts(inventory):
    """Step to rows, live keys, idle windows, tombstones, superseded rows, rows above."""
    return {
        step.step_id: (
            step.rows,
            step.live_keys,
            step.idle_window_keys,
            step.tombstones,
            step.superseded_rows,
            step.rows_above_resume,
        )
        for step in inventory.steps
    }


@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_that_ended(tmp_path, parts):
    folder = stock.run("windows", stock.make_store(tmp_path / "db", parts))
    inventory = inventory_of(folder)
    assert counts(inventory) == {
        SOURCE: (1, 1, 0, 0, 0, 0),
        SESSION: (KEYS, KEYS, KEYS, 0, 0, 0),  # closed, and never dropped
        TOTAL: (KEYS, KEYS, 0, 0, 0, 0),
        TUMBLE: (KEYS, 0, 0, KEYS, 0, 0),  # dropped, and a row each for ever
    }
    assert [p.file for p in inventory.partitions] == [f"part-{i}.sqlite3" for i in range(parts)]
    assert not any(p.copied for p in inventory.partitions)
    assert sum(p.rows for p in inventory.partitions) == inventory.total.rows == 3 * KEYS + 1
    assert sum(p.keys for p in inventory.partitions) == 3 * KEYS + 1
    assert (inventory.executions, inventory.workers) == (1, 1)
    assert inventory.outdated_partitions == ()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_killed_run_is_read_with_its_log(tmp_path, parts):
    inventory = inventory_of(stock.kill_open(stock.make_store(tmp_path / "db", parts)))
    found = counts(inventory)
    assert {step: row[1:4] for step, row in found.items()} == {
        SOURCE: (1, 0, 0),
        SESSION: (KEYS, 0, 0),  # live, and open
        TOTAL: (KEYS, 0, 0),
        TUMBLE: (KEYS, 0, 0),
    }
    assert all(p.copied for p in inventory.partitions)


def test_rows_of_an_epoch_that_never_completed(tmp_path):
    folder = stock.kill_stuck(stock.make_store(tmp_path / "db", 3))
    inventory = inventory_of(folder)
    expected = stock.above(folder)  # by plain SQL; may touch the files, so it comes second
    assert inventory.total.rows_above_resume == expected > 0
    assert inventory.resume_epoch == stock.resume_epoch(folder) > 1
    assert inventory.workers == 2
    total = inventory.total
    parts = (total.live_keys, total.tombstones, total.superseded_rows, total.rows_above_resume)
    assert sum(parts) == total.rows


def test_the_resume_epoch_is_the_one_that_stock_goes_on_with(tmp_path):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 3))
    expected = inventory_of(folder).resume_epoch
    picked = "SELECT resume_epoch FROM exs WHERE ex_num = 1"
    with stock.started("endless", folder) as process:
        stock.wait_for(lambda: stock.query(folder, picked), process)
    assert stock.query(folder, picked) == [(expected,)]
    assert inventory_of(folder).executions == 2


@pytest.mark.parametrize(
    ("fronts", "expected"),
    [
        ({}, 5),
        ({(1, 0): 9}, 5),  # the other worker got nowhere
        ({(1, 0): 9, (1, 1): 7}, 7),
        ({(0, 0): 20, (0, 1): 20, (1, 0): 9, (1, 1): 8}, 8),
    ],
)
def test_the_resume_epoch_is_the_least_of_the_last_execution(tmp_path, fronts, expected):
    folder = stock.make_store(tmp_path / "db", 2)
    execution = "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, 2, ?)"
    stock.execute(stock.part(folder, 0), execution, 0, 1)
    stock.execute(stock.part(folder, 1), execution, 1, 5)
    front = "INSERT INTO fronts (ex_num, worker_index, worker_frontier) VALUES (?, ?, ?)"
    for (number, worker), epoch in fronts.items():
        stock.execute(stock.part(folder, worker), front, number, worker, epoch)
    inventory = inventory_of(folder)
    assert (inventory.resume_epoch, inventory.executions, inventory.workers) == (expected, 2, 2)


def test_superseded_rows_and_bytes(store):
    snap = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)"
    before = {step.step_id: step for step in inventory_of(store).steps}[TOTAL]
    stock.execute(stock.part(store), snap, TOTAL, "k0", 0, b"12345")
    stock.execute(stock.part(store), snap, TOTAL, "ü", 0, None)
    after = {step.step_id: step for step in inventory_of(store).steps}[TOTAL]
    assert (after.superseded_rows, after.tombstones) == (1, 1)
    assert after.rows == before.rows + 2
    assert after.bytes - before.bytes == 2 * len(TOTAL) + len("k0") + 5 + len("ü".encode())


def test_a_key_whose_only_row_is_above_the_resume_epoch_is_no_key(store):
    snap = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)"
    epoch = inventory_of(store).resume_epoch
    stock.execute(stock.part(store), snap, TOTAL, "new", epoch, pickle.dumps(1))
    inventory = inventory_of(store)
    assert counts(inventory)[TOTAL] == (KEYS + 1, KEYS, 0, 0, 0, 1)


def test_a_store_that_no_flow_has_run_on(tmp_path):
    inventory = inventory_of(stock.make_store(tmp_path / "db", 2))
    assert (inventory.steps, inventory.executions, inventory.resume_epoch) == ((), 0, 1)
    assert stock_resume_seconds(inventory.partitions, inventory.workers) == 0


def test_partitions_of_an_older_backup_are_named(tmp_path):
    folder = stock.run("windows", stock.make_store(tmp_path / "db", 3))
    resume = inventory_of(folder).resume_epoch
    stock.execute(stock.part(folder, 1), "UPDATE commits SET commit_epoch = ?", resume + 5)
    assert inventory_of(folder).outdated_partitions == (0, 2)


def test_progress_counts_rows(store, monkeypatch):
    monkeypatch.setattr("bytewax_redis_state.stock.inventory._ROWS_PER_REPORT", 5)
    seen = []
    with RecoveryDirectory(store) as opened:
        take_inventory(opened, lambda done, total: seen.append((done, total)))
    assert seen == [(5, 22), (10, 22), (15, 22), (20, 22)]


def test_a_malicious_row_is_counted_and_not_run(store, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    row = pickle.dumps(win._WindowSnapshot(Evil(), win._SessionWindowerState(), {}, []))
    stock.execute(stock.part(store), "UPDATE snaps SET ser_change = ?", row)
    assert inventory_of(store).total.live_keys == 3 * KEYS + 1
    assert not (tmp_path / "ran").exists()
