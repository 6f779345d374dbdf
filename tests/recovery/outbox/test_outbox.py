"""The outbox on files that Bytewax makes; writes as the engine does them."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path

import pytest
from bytewax.recovery import init_db_dir

from bytewax_redis_state.errors import DecodeError, ReplicatorError, ScratchError
from bytewax_redis_state.recovery.outbox import outbox as module
from bytewax_redis_state.recovery.outbox.engine_pickle import bytes_in
from bytewax_redis_state.recovery.outbox.outbox import (
    Outbox,
    OutboxOwner,
    part_file,
    prepare,
    require_sqlite,
)

OWNER = OutboxOwner("life", 3, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    init_db_dir(str(tmp_path), 1)
    return part_file(tmp_path, 0)


def made(path: Path, restored=(), epoch=5) -> int:
    return prepare(path, OWNER, execution=3, resume_epoch=epoch, restored=restored)


class Engine:
    """What the engine writes into a recovery partition, statement by statement."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)

    def snap(self, epoch: int, key: str, value: object, step: str = "keyed") -> None:
        change = None if value is None else pickle.dumps(value)
        self.db.execute(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (step_id, state_key, snap_epoch) DO UPDATE "
            "SET ser_change = EXCLUDED.ser_change",
            (step, key, epoch, change),
        )

    def commit(self, epoch: int) -> None:
        self.db.execute(
            "INSERT INTO commits (part_index, commit_epoch) VALUES (0, ?) "
            "ON CONFLICT (part_index) DO UPDATE SET commit_epoch = EXCLUDED.commit_epoch",
            (epoch,),
        )


def opened(path: Path, keep=frozenset()) -> Outbox:
    return Outbox(path, OWNER, keep)


def test_rows_are_diverted_and_snaps_stay_empty(path):
    """Rule 1: a trigger takes the row; the engine's own table stays empty."""
    made(path)
    engine = Engine(path)
    for epoch in (5, 6):
        engine.snap(epoch, "s0.0", b"delta%d" % epoch)
        engine.commit(epoch)
    assert engine.db.execute("SELECT count(*) FROM snaps").fetchone() == (0,)
    rows = opened(path).rows(0, 6, 1 << 20)
    assert [(r.id, r.epoch, r.step_id, r.change) for r in rows] == [
        (1, 5, "keyed", b"delta5"),
        (2, 5, None, None),
        (3, 6, "keyed", b"delta6"),
        (4, 6, None, None),
    ]


def test_a_discarded_key_is_a_row_without_bytes(path):
    made(path)
    engine = Engine(path)
    engine.snap(5, "s0.0", None)
    engine.commit(5)
    assert opened(path).rows(0, 5, 1 << 20)[0].change is None


def test_nothing_above_the_commit_mark_is_given(path):
    """Rule 3: rows with an epoch at or below the commit mark, and no others."""
    made(path)
    engine, box = Engine(path), opened(path)
    assert box.commit_mark() is None
    engine.snap(5, "a", b"1")
    engine.commit(5)
    engine.snap(6, "a", b"2")
    assert box.commit_mark() == 5
    assert [r.epoch for r in box.rows(0, box.commit_mark(), 1 << 20)] == [5, 5]


def test_rows_come_in_batches_that_follow_each_other(path):
    made(path)
    engine = Engine(path)
    for n in range(10):
        engine.snap(5, f"k{n}", b"x" * 100)
    engine.commit(5)
    box, after, batches = opened(path), 0, []
    while rows := box.rows(after, 5, 250):
        batches.append([r.id for r in rows])
        after = rows[-1].id
    assert [i for batch in batches for i in batch] == list(range(1, 12))
    assert len(batches) > 3
    rows, size = box.backlog(0)
    assert rows == 11
    assert size > 11 * 64
    assert box.backlog(11) == (0, 0)


def test_a_write_is_noticed(path):
    made(path)
    engine, box = Engine(path), opened(path)
    before = box.changed()
    assert box.changed() == before
    engine.snap(5, "a", b"1")
    assert box.changed() != before


def test_restored_rows_are_the_engines_and_are_forgotten_later(path):
    restored = [("keyed", f"s{n}.0", b"piece") for n in range(10)]
    assert made(path, restored) == 10
    db = Engine(path).db
    found = db.execute("SELECT step_id, snap_epoch, ser_change FROM snaps LIMIT 1").fetchone()
    assert found == ("keyed", 4, pickle.dumps(b"piece", protocol=5))
    assert db.execute("SELECT ex_num, worker_count, resume_epoch FROM exs").fetchall() == [
        (3, 1, 5)
    ]
    box = opened(path)
    assert box.rows(0, 100, 1 << 20) == []  # what Redis has is not sent there again
    box.forget_restored()
    assert db.execute("SELECT count(*) FROM snaps").fetchone() == (0,)


def test_what_a_busy_engine_leaves_no_time_for_is_put_off(path, monkeypatch):
    """A machine under load: a replicator that died of it would be restarted for nothing."""
    made(path, [("keyed", "s0.0", b"ticket")])
    engine = Engine(path)
    engine.snap(5, "s0.0", b"1")
    engine.commit(5)
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.1)
    box = opened(path)
    engine.db.execute("BEGIN IMMEDIATE")
    assert not box.forget_restored()
    assert box.prune(1) == 0
    assert box.pruned == 0
    engine.db.execute("COMMIT")
    assert box.forget_restored()
    assert box.prune(1) == 1
    assert engine.db.execute("SELECT count(*) FROM snaps").fetchone() == (0,)


def test_only_one_file_of_the_cluster_gets_the_execution(path):
    """Rule 2: exactly one row of executions."""
    prepare(path, OWNER, execution=None, resume_epoch=5, restored=())
    assert Engine(path).db.execute("SELECT count(*) FROM exs").fetchone() == (0,)


def test_prune_keeps_the_last_rows_of_sources_and_sinks(path):
    """Rule 3: the last row of every source and sink stays, whatever its age."""
    made(path)
    engine = Engine(path)
    for epoch in range(5, 9):
        engine.snap(epoch, "a", b"%d" % epoch)
        engine.snap(epoch, "p1", b"%d" % epoch, step="in")
        if epoch == 5:
            engine.snap(epoch, "p2", b"only", step="in")
        engine.commit(epoch)
    box = opened(path, frozenset({"in"}))
    rows = box.rows(0, 8, 1 << 20)
    up_to = [r.id for r in rows if r.epoch == 7][-1]
    box.prune(up_to)
    left = [(r.step_id, r.state_key, r.epoch) for r in box.rows(0, 8, 1 << 20) if r.step_id]
    # Up to there goes all but the last row of p2; what is later stays as it is.
    assert left == [("in", "p2", 5), ("keyed", "a", 8), ("in", "p1", 8)]
    assert box.prune(up_to) == 0


def test_prune_takes_many_rows_in_short_transactions(path, monkeypatch):
    """Rule 2: no write lock is held for long."""
    monkeypatch.setattr(module, "_DELETE_CHUNK", 50)
    made(path)
    engine = Engine(path)
    for n in range(220):
        engine.snap(5, f"k{n}", b"x")
    engine.commit(5)
    assert opened(path).prune(1000) == 221


def instructions_of(box: Outbox, act) -> int:
    """How many instructions of SQLite's virtual machine something takes, in hundreds."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    box._db.set_progress_handler(tick, 100)
    act()
    box._db.set_progress_handler(None, 0)
    return count


def test_pruning_looks_at_each_row_once_however_many_chunks_it_takes(path, monkeypatch):
    """A flow that lagged far behind has a long outbox, of which little goes at a time."""
    monkeypatch.setattr(module, "_DELETE_CHUNK", 50)
    made(path)
    engine, rows = Engine(path), 5000
    engine.db.execute("BEGIN")
    for n in range(rows):
        engine.snap(5 + n, f"p{n % 4}", b"x", step="in" if n % 2 else "keyed")
    engine.db.execute("COMMIT")
    box = opened(path, frozenset({"in"}))
    box.prune(1)
    taken = instructions_of(box, lambda: box.prune(rows // 2))
    assert taken < rows // 2  # a hundred instructions a row that is deleted
    assert instructions_of(box, lambda: box.prune(rows // 2)) < 10
    box.prune(rows)
    left = {(row.state_key, row.id) for row in box.rows(0, 10**9, 1 << 20)}
    assert left == {("p1", rows - 2), ("p3", rows)}


def test_last_rows_are_known_to_an_outbox_that_is_opened_again(path):
    """As by a replicator that is restarted."""
    made(path)
    engine = Engine(path)
    for epoch in (5, 6, 7):
        engine.snap(epoch, "p1", b"%d" % epoch, step="in")
        engine.commit(epoch)
    opened(path, frozenset({"in"})).prune(3)
    again = opened(path, frozenset({"in"}))
    assert again.prune(6) == 2
    assert [row.id for row in again.rows(0, 7, 1 << 20)] == [5]
    engine.snap(8, "p1", b"8", step="in")
    again.prune(6)  # the row that was kept until now has a newer one
    assert [row.id for row in again.rows(0, 8, 1 << 20)] == [7]


def test_ids_go_on_after_everything_is_pruned(path):
    """Rule 1: AUTOINCREMENT, so that an id never comes twice."""
    made(path)
    engine, box = Engine(path), opened(path)
    engine.commit(5)
    box.prune(100)
    engine.commit(6)
    assert [r.id for r in box.rows(0, 6, 1 << 20)] == [2]


@pytest.mark.parametrize(
    "other", [OutboxOwner("other", 3, 0), OutboxOwner("life", 2, 0), OutboxOwner("life", 3, 1)]
)
def test_another_executions_outbox_is_refused(path, other):
    """Rule 2: never continued by another execution."""
    made(path)
    with pytest.raises(ReplicatorError, match="stamped"):
        Outbox(path, other, frozenset())


def test_an_outbox_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(ScratchError, match="can't be read: unable to open"):
        opened(tmp_path / "part-0.sqlite3")
    assert list(tmp_path.iterdir()) == []


class Trap:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_row_that_names_a_class_is_notbytes_in(path):
    made(path)
    engine = Engine(path)
    engine.snap(5, "a", Trap())
    engine.commit(5)
    with pytest.raises(DecodeError, match="is no pickle of bytes"):
        opened(path).rows(0, 5, 1 << 20)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("protocol", [4, 5])
def test_bytes_of_any_size_come_out_as_the_engine_put_them_in(size, protocol):
    assert bytes_in(pickle.dumps(b"x" * size, protocol)) == b"x" * size
    for cut in (1, 2, 3):
        with pytest.raises(DecodeError, match="is no pickle of bytes"):
            bytes_in(pickle.dumps(b"x" * size, protocol)[:-cut])


def test_a_row_that_holds_no_bytes_is_refused(path):
    made(path)
    engine = Engine(path)
    engine.snap(5, "a", "text")
    engine.commit(5)
    with pytest.raises(DecodeError, match="is no pickle of bytes"):
        opened(path).rows(0, 5, 1 << 20)


def test_a_file_that_can_not_be_written_is_a_scratch_error(tmp_path):
    (tmp_path / "part-0.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(ScratchError, match="can't be written"):
        made(part_file(tmp_path, 0))


def test_an_old_sqlite_is_refused(monkeypatch):
    # The library that is linked in can't be exchanged: the number is what we can change.
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(ScratchError, match=r"SQLite 3\.36\.0, but 3\.37 or newer is needed"):
        require_sqlite()
