"""A recovery directory is left alone, and refused where it can't be read."""

from __future__ import annotations

import shutil

import pytest

from bytewax_redis_state.errors import StockStoreError
from bytewax_redis_state.recovery.outbox import outbox
from bytewax_redis_state.stock.directory import RecoveryDirectory
from tests.stock import stock_runs as stock
from tests.stock.stock_runs import inventory_of, refusal

KEYS = 7


# -- leaving it alone --------------------------------------------------------------------------


def test_reading_leaves_no_trace(store):
    before = stock.looks(store)
    inventory_of(store)
    assert stock.looks(store) == before


@pytest.mark.parametrize("without", ["nothing", "shm"])
def test_reading_a_log_leaves_no_trace_either(tmp_path, without):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    if without == "shm":
        (folder / "part-0.sqlite3-shm").unlink()
    before = stock.looks(folder)
    assert "part-0.sqlite3-wal" in before
    inventory = inventory_of(folder)
    assert stock.looks(folder) == before
    assert inventory.total.live_keys == 3 * KEYS + 1


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


# -- refusing ----------------------------------------------------------------------------------


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
    assert "different numbers of partitions, 2 and 3" in refusal(folder)


def test_a_partition_that_is_there_twice(tmp_path):
    folder = stock.make_store(tmp_path / "db", 2)
    shutil.copy(stock.part(folder, 1), stock.part(folder, 7))
    assert "3 files for 2 partitions" in refusal(folder)


def test_a_parts_table_without_a_row(store):
    stock.execute(stock.part(store), "DELETE FROM parts")
    message = refusal(store)
    assert f"the table 'parts' of {stock.part(store)} has 0 rows where one is expected" in message


@pytest.mark.parametrize("version", [4, 6])
def test_a_store_of_another_bytewax(store, version):
    stock.execute(stock.part(store), f"PRAGMA user_version = {version}")
    assert f"its format is {version}, and Bytewax 0.21 writes format 5" in refusal(store)


def test_an_outbox_of_our_own(tmp_path):
    folder = stock.make_store(tmp_path / "db", 1)
    stamp = outbox.OutboxOwner("life", 1, 0)
    outbox.prepare(stock.part(folder), stamp, execution=0, resume_epoch=1, restored=[])
    assert "an outbox of bytewax-redis-state" in refusal(folder)


def test_a_disk_without_room_for_the_copy(tmp_path, monkeypatch):
    folder = stock.kill_open(stock.make_store(tmp_path / "db", 1))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "set TMPDIR to a folder with more room" in refusal(folder)
