"""A store of stock Bytewax is counted right, left alone, and refused where it can't be read."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bytewax.operators import windowing as win

from benchmarks.plots import curves
from benchmarks.results import Results
from bytewax_redis_state.errors import StockStoreError, StockStoreInUseError
from bytewax_redis_state.recovery.outbox import outbox
from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inventory import (
    PartitionFindings,
    own_resume_seconds,
    stock_resume_seconds,
    survey,
)
from tests.stock import stock_runs as stock

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "results.json"
SOURCE = "shop.in"
SESSION = "shop.session.fold_window.window.stateful_batch"
TUMBLE = "shop.tumble.fold_window.window.stateful_batch"
TOTAL = "shop.total.stateful_flat_map.stateful.stateful_batch"
KEYS = 7


def survey_of(folder):
    with RecoveryDirectory(folder) as store:
        return survey(store)


def counts(findings):
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
        for step in findings.steps
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The store of a run that ended, to be copied."""
    return stock.run("windows", stock.make_store(tmp_path_factory.mktemp("stock") / "db", 1))


@pytest.fixture
def store(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "db"))


# -- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_a_run_that_ended(tmp_path, parts):
    folder = stock.run("windows", stock.make_store(tmp_path / "db", parts))
    findings = survey_of(folder)
    assert counts(findings) == {
        SOURCE: (1, 1, 0, 0, 0, 0),
        SESSION: (KEYS, KEYS, KEYS, 0, 0, 0),  # closed, and never dropped
        TOTAL: (KEYS, KEYS, 0, 0, 0, 0),
        TUMBLE: (KEYS, 0, 0, KEYS, 0, 0),  # dropped, and a row each for ever
    }
    assert [p.file for p in findings.partitions] == [f"part-{i}.sqlite3" for i in range(parts)]
    assert not any(p.copied for p in findings.partitions)
    assert sum(p.rows for p in findings.partitions) == findings.total.rows == 3 * KEYS + 1
    assert sum(p.keys for p in findings.partitions) == 3 * KEYS + 1
    assert (findings.executions, findings.workers) == (1, 1)
    assert findings.outdated_partitions == ()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_killed_run_is_read_with_its_log(tmp_path, parts):
    findings = survey_of(stock.kill_open(stock.make_store(tmp_path / "db", parts)))
    found = counts(findings)
    assert {step: row[1:4] for step, row in found.items()} == {
        SOURCE: (1, 0, 0),
        SESSION: (KEYS, 0, 0),  # live, and open
        TOTAL: (KEYS, 0, 0),
        TUMBLE: (KEYS, 0, 0),
    }
    assert all(p.copied for p in findings.partitions)


def test_rows_of_an_epoch_that_never_completed(tmp_path):
    folder = stock.kill_stuck(stock.make_store(tmp_path / "db", 3))
    findings = survey_of(folder)
    expected = stock.above(folder)  # by plain SQL; may touch the files, so it comes second
    assert findings.total.rows_above_resume == expected > 0
    assert findings.resume_epoch == stock.resume_epoch(folder) > 1
    assert findings.workers == 2
    total = findings.total
    parts = (total.live_keys, total.tombstones, total.superseded_rows, total.rows_above_resume)
    assert sum(parts) == total.rows


def test_the_resume_epoch_is_the_one_that_stock_goes_on_with(tmp_path):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 3))
    expected = survey_of(folder).resume_epoch
    picked = "SELECT resume_epoch FROM exs WHERE ex_num = 1"
    with stock.started("endless", folder) as process:
        stock.wait_for(lambda: stock.query(folder, picked), process)
    assert stock.query(folder, picked) == [(expected,)]
    assert survey_of(folder).executions == 2


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
    findings = survey_of(folder)
    assert (findings.resume_epoch, findings.executions, findings.workers) == (expected, 2, 2)


def test_superseded_rows_and_bytes(store):
    snap = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)"
    before = {step.step_id: step for step in survey_of(store).steps}[TOTAL]
    stock.execute(stock.part(store), snap, TOTAL, "k0", 0, b"12345")
    stock.execute(stock.part(store), snap, TOTAL, "ü", 0, None)
    after = {step.step_id: step for step in survey_of(store).steps}[TOTAL]
    assert (after.superseded_rows, after.tombstones) == (1, 1)
    assert after.rows == before.rows + 2
    assert after.bytes - before.bytes == 2 * len(TOTAL) + len("k0") + 5 + len("ü".encode())


def test_a_key_whose_only_row_is_above_the_resume_epoch_is_no_key(store):
    snap = "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)"
    epoch = survey_of(store).resume_epoch
    stock.execute(stock.part(store), snap, TOTAL, "new", epoch, pickle.dumps(1))
    findings = survey_of(store)
    assert counts(findings)[TOTAL] == (KEYS + 1, KEYS, 0, 0, 0, 1)


def test_a_store_that_no_flow_has_run_on(tmp_path):
    findings = survey_of(stock.make_store(tmp_path / "db", 2))
    assert (findings.steps, findings.executions, findings.resume_epoch) == ((), 0, 1)
    assert findings.stock_resume_seconds == 0


def test_partitions_of_an_older_backup_are_named(tmp_path):
    folder = stock.run("windows", stock.make_store(tmp_path / "db", 3))
    resume = survey_of(folder).resume_epoch
    stock.execute(stock.part(folder, 1), "UPDATE commits SET commit_epoch = ?", resume + 5)
    assert survey_of(folder).outdated_partitions == (0, 2)


def test_progress_counts_rows(store, monkeypatch):
    monkeypatch.setattr("bytewax_redis_state.stock.inventory._ROWS_PER_REPORT", 5)
    seen = []
    with RecoveryDirectory(store) as opened:
        survey(opened, lambda done, total: seen.append((done, total)))
    assert seen == [(5, 22), (10, 22), (15, 22), (20, 22)]


# -- leaving it alone --------------------------------------------------------------------------


def test_reading_leaves_no_trace(store):
    before = stock.looks(store)
    survey_of(store)
    assert stock.looks(store) == before


@pytest.mark.parametrize("without", ["nothing", "shm"])
def test_reading_a_log_leaves_no_trace_either(tmp_path, without):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    if without == "shm":
        (folder / "part-0.sqlite3-shm").unlink()
    before = stock.looks(folder)
    assert "part-0.sqlite3-wal" in before
    findings = survey_of(folder)
    assert stock.looks(folder) == before
    assert findings.total.live_keys == 3 * KEYS + 1


def test_the_temporary_copy_is_removed(tmp_path, monkeypatch):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with RecoveryDirectory(folder):
        assert list(temporary.iterdir())
    assert not list(temporary.iterdir())
    stock.execute(stock.part(folder), "PRAGMA user_version = 4")
    (folder / "part-0.sqlite3-wal").write_bytes(b"no log")
    with pytest.raises(StockStoreError):
        RecoveryDirectory(folder)
    assert not list(temporary.iterdir())


def test_a_malicious_row_is_counted_and_not_run(store, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    row = pickle.dumps(win._WindowSnapshot(Evil(), win._SessionWindowerState(), {}, []))
    stock.execute(stock.part(store), "UPDATE snaps SET ser_change = ?", row)
    assert survey_of(store).total.live_keys == 3 * KEYS + 1
    assert not (tmp_path / "ran").exists()


# -- refusing ----------------------------------------------------------------------------------


def refusal(folder, kind=StockStoreError):
    with pytest.raises(StockStoreError) as caught:
        survey_of(folder)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_directory(tmp_path):
    assert "there is no directory" in refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory(store):
    assert "there is no directory" in refusal(stock.part(store))


def test_no_part_files(tmp_path):
    assert "holds no part-*.sqlite3 file" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_a_file_that_is_no_database(tmp_path, content):
    (tmp_path / "part-0.sqlite3").write_bytes(content)
    assert str(tmp_path / "part-0.sqlite3") in refusal(tmp_path)


def test_a_database_of_somebody_else(tmp_path):
    stock.execute(stock.part(tmp_path), "CREATE TABLE parts (part_index)")
    assert "not one of Bytewax" in refusal(tmp_path)


def test_a_damaged_file(store):
    with stock.part(store).open("r+b") as file:
        file.truncate(12_288)
    assert "can't be read" in refusal(store)


def test_a_file_that_cannot_be_opened(store):
    stock.part(store).unlink()
    stock.part(store).mkdir()
    assert "can't be read" in refusal(store)


def test_a_missing_partition(tmp_path):
    folder = stock.make_store(tmp_path / "db", 3)
    stock.part(folder, 1).unlink()
    assert "lacks partition 1 of 3" in refusal(folder)


def test_partitions_of_different_stores(tmp_path):
    folder, other = stock.make_store(tmp_path / "db", 3), stock.make_store(tmp_path / "other", 2)
    shutil.copy(stock.part(other, 1), stock.part(folder, 1))
    assert "[2, 3] partitions" in refusal(folder)


def test_a_partition_that_is_there_twice(tmp_path):
    folder = stock.make_store(tmp_path / "db", 2)
    shutil.copy(stock.part(folder, 1), stock.part(folder, 7))
    assert "3 files of 2 partitions" in refusal(folder)


@pytest.mark.parametrize("version", [4, 6])
def test_a_store_of_another_bytewax(store, version):
    stock.execute(stock.part(store), f"PRAGMA user_version = {version}")
    assert f"its version is {version}, 0.21 writes 5" in refusal(store)


def test_an_outbox_of_our_own(tmp_path):
    folder = stock.make_store(tmp_path / "db", 1)
    stamp = outbox.Stamp("life", 1, 0)
    outbox.prepare(stock.part(folder), stamp, execution=0, resume_epoch=1, restored=[])
    assert "an outbox of our own" in refusal(folder)


def test_a_running_flow(tmp_path):
    folder = stock.make_store(tmp_path / "db", 3)
    with stock.running(folder):
        assert re.search(r"process \d+ holds part-\d", refusal(folder, StockStoreInUseError))
    assert survey_of(folder).total.live_keys == 3 * KEYS + 1


def test_a_flow_that_starts_while_we_read(store):
    with RecoveryDirectory(store) as opened:
        stock.execute(stock.part(store), "DELETE FROM fronts")
        with pytest.raises(StockStoreInUseError, match="changed while it was read"):
            survey(opened)


def test_somebody_else_who_only_reads_is_no_flow(store):
    with RecoveryDirectory(store) as opened, closing(sqlite3.connect(stock.part(store))) as reader:
        reader.execute("SELECT * FROM parts").fetchall()
        assert (store / "part-0.sqlite3-wal").exists()
        survey(opened)


def test_a_log_that_grows_while_we_read(tmp_path):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    with RecoveryDirectory(folder) as opened:
        with (folder / "part-0.sqlite3-wal").open("ab") as log:
            log.write(b"more")
        with pytest.raises(StockStoreInUseError):
            survey(opened)


def test_a_disk_without_room_for_the_copy(tmp_path, monkeypatch):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "point TMPDIR" in refusal(folder)


# -- estimating --------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "seconds"), [(100_000, 7.5), (200_000, 28), (400_000, 124)])
def test_the_estimate_for_stock_is_what_was_measured(keys, seconds):
    part = PartitionFindings("part-0.sqlite3", keys, keys)
    assert stock_resume_seconds([part], 1) == pytest.approx(seconds, rel=0.1)


def test_partitions_are_read_side_by_side_as_far_as_there_are_workers():
    part = PartitionFindings("part", 100_000, 100_000)
    one = stock_resume_seconds([part], 4)
    assert stock_resume_seconds([part] * 4, 1) == pytest.approx(4 * one)
    assert stock_resume_seconds([part] * 4, 2) == pytest.approx(2 * one)
    assert stock_resume_seconds([part] * 4, 8) == pytest.approx(one)
    assert stock_resume_seconds([], 1) == 0


def test_the_estimate_for_ours_is_what_the_benchmarks_say():
    points = curves(Results.read(RESULTS), "g")["ours"]
    for keys in (100_000, 1_000_000):
        assert own_resume_seconds(keys) == pytest.approx(points[keys], rel=0.2)
