"""The recovery files: what the engine makes, and what it lets us add."""

from __future__ import annotations

import pickle
from contextlib import closing
from pathlib import Path

import pytest

from .engine import (
    Engine,
    connect,
    execute,
    make_db,
    marks_of,
    part_file,
    query,
    read_outbox,
    rows_of,
    run_well,
    wait_until,
)

PARTS = 3
STEP = "resume.join"
BATCHES = [[("a", "1"), ("b", "1")], [("a", "2")], [("b", "3")]]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Files as the engine makes them."""
    return make_db(tmp_path, PARTS, outbox=False)


def test_init_db_dir_makes_one_numbered_file_per_partition(bare: Path) -> None:
    assert {one.name for one in bare.iterdir() if one.suffix == ".sqlite3"} == {
        "part-0.sqlite3",
        "part-1.sqlite3",
        "part-2.sqlite3",
    }
    parts = [query(part_file(bare, i), "SELECT part_index, part_count FROM parts") for i in (0, 2)]
    assert parts == [[(0, PARTS)], [(2, PARTS)]]


def test_the_files_are_in_wal_mode(bare: Path) -> None:
    assert query(part_file(bare, 0), "PRAGMA journal_mode") == [("wal",)]


def test_the_files_have_user_version_5(bare: Path) -> None:
    assert query(part_file(bare, 0), "PRAGMA user_version") == [(5,)]


def test_the_tables_are_parts_exs_fronts_commits_and_snaps(bare: Path) -> None:
    sql = "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    tables = [("commits",), ("exs",), ("fronts",), ("parts",), ("snaps",)]
    assert query(part_file(bare, 0), sql) == tables


@pytest.mark.parametrize(
    ("table", "columns"),
    {
        "parts": ["created_at", "part_index", "part_count"],
        "exs": ["created_at", "ex_num", "worker_count", "resume_epoch"],
        "fronts": ["created_at", "ex_num", "worker_index", "worker_frontier"],
        "commits": ["created_at", "part_index", "commit_epoch"],
        "snaps": ["created_at", "step_id", "state_key", "snap_epoch", "ser_change"],
    }.items(),
)
def test_the_columns_are_as_known(bare: Path, table: str, columns: list[str]) -> None:
    found = query(part_file(bare, 0), f"SELECT name FROM pragma_table_info('{table}')")
    assert [name for (name,) in found] == columns


def test_a_null_change_is_a_discarded_key(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    run_well("script", db, batches=[[["a", "keep"]], [["a", "complete"]]])
    changes = [row.change for row in rows_of(part_file(db, 0)) if row.state_key == "a"]
    assert changes == [pickle.dumps("keep"), None]


def test_the_outbox_takes_every_row_and_snaps_stays_empty(tmp_path: Path) -> None:
    diverted = make_db(tmp_path / "diverted", PARTS)
    run_well("resume", diverted, batches=BATCHES)
    assert [query(part_file(diverted, i), "SELECT * FROM snaps") for i in range(PARTS)] == [[]] * 3
    rows = [row for part in range(PARTS) for row in rows_of(part_file(diverted, part))]
    keyed = sorted((r.state_key, r.epoch, r.change) for r in rows if r.step_id == STEP)
    assert keyed == [
        ("a", 1, pickle.dumps("1")),
        ("a", 2, pickle.dumps("12")),
        ("a", 4, pickle.dumps("12")),  # at EOF every key of the step is awoken
        ("b", 1, pickle.dumps("1")),
        ("b", 3, pickle.dumps("13")),
        ("b", 4, pickle.dumps("13")),
    ]


def test_deleting_shipped_rows_does_not_let_ids_come_twice(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    run_well("resume", db, batches=BATCHES)
    last = read_outbox(part_file(db, 0))[-1].id
    execute(part_file(db, 0), "DELETE FROM outbox")
    run_well("resume", db, batches=BATCHES)
    assert read_outbox(part_file(db, 0))[0].id == last + 1


def test_an_outbox_and_other_tables_do_not_disturb_a_resume(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    execute(part_file(db, 0), "CREATE TABLE stamp (incarnation TEXT)")
    run_well("resume", db, batches=BATCHES)
    assert run_well("resume", db, batches=BATCHES) == [["source", None]]
    assert query(part_file(db, 0), "SELECT ex_num, resume_epoch FROM exs") == [(0, 1), (1, 5)]


def test_data_version_changes_when_the_engine_has_written_and_only_then(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    db = make_db(tmp_path / "db", 1)
    with closing(connect(part_file(db, 0))) as reader:

        def version() -> int:
            return reader.execute("PRAGMA data_version").fetchone()[0]

        before = version()
        assert version() == before
        with Engine("endless", db, started=str(started)):
            wait_until(lambda: version() != before, "data_version moves")
            marks = len(marks_of(part_file(db, 0)))
            seen = version()
            wait_until(lambda: len(marks_of(part_file(db, 0))) > marks, "the engine goes on")
            assert version() != seen
