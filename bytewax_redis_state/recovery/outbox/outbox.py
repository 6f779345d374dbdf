"""The outbox: our log table inside Bytewax's recovery partition, an SQLite file on scratch disk.

Triggers divert what the engine writes: a row for ``snaps`` goes into ``outbox`` instead, and so
does each move of ``commits``, so that one read in the order of ids gives rows and commit marks.
``snaps`` holds restored rows until the engine has loaded them, then nothing.

Invariant: everything at or below a commit mark stands before the mark, and epochs never fall with
growing ids; so what may be shipped is always a prefix. The file is written before the engine
starts and after that only by the replicator's own process: two SQLite libraries in one process
would share POSIX locks and could corrupt it.
"""

from __future__ import annotations

import logging
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bytewax_redis_state.errors import (
    ReplicatorError,
    ScratchError,
)
from bytewax_redis_state.recovery.outbox.engine_pickle import bytes_in

__all__ = [
    "Outbox",
    "OutboxOwner",
    "OutboxRow",
    "RenewalRecord",
    "part_file",
    "prepare",
    "put_off_if_busy",
    "require_sqlite",
]

logger = logging.getLogger(__name__)

_OLDEST_SQLITE = (3, 37)  # STRICT tables, as Bytewax makes them
_BUSY_SECONDS = 4.0  # the engine panics after waiting 5 s for a lock, so nobody here holds one long
_DELETE_CHUNK = 2000
_ROW_BYTES = 64  # what a row takes beside its change, about

_TABLES = """
CREATE TABLE stamp (incarnation TEXT NOT NULL, generation INTEGER NOT NULL, part INTEGER NOT NULL,
    pruned INTEGER NOT NULL DEFAULT 0);
CREATE TABLE renewal (incarnation TEXT NOT NULL, generation INTEGER NOT NULL,
    epoch INTEGER NOT NULL);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch INTEGER NOT NULL,
    step_id TEXT,
    state_key TEXT,
    change BLOB
);
"""

_TEMPORARY = """
PRAGMA temp_store = MEMORY;
CREATE TABLE temp.last_rows (step_id TEXT NOT NULL, state_key TEXT NOT NULL, id INTEGER NOT NULL,
    PRIMARY KEY (step_id, state_key)) WITHOUT ROWID;
CREATE UNIQUE INDEX temp.last_rows_by_id ON last_rows (id);
"""

_TRIGGERS = """
CREATE TRIGGER divert_snap BEFORE INSERT ON snaps BEGIN
    INSERT INTO outbox (epoch, step_id, state_key, change)
    VALUES (NEW.snap_epoch, NEW.step_id, NEW.state_key, NEW.ser_change);
    SELECT RAISE(IGNORE);
END;
CREATE TRIGGER mark_first_commit AFTER INSERT ON commits BEGIN
    INSERT INTO outbox (epoch) VALUES (NEW.commit_epoch);
END;
CREATE TRIGGER mark_commit AFTER UPDATE ON commits WHEN NEW.commit_epoch > OLD.commit_epoch BEGIN
    INSERT INTO outbox (epoch) VALUES (NEW.commit_epoch);
END;
"""


@dataclass(frozen=True)
class OutboxOwner:
    """Whose outbox a file is; the file is stamped with it.

    :arg incarnation: The flow's life.
    :arg generation: Number of the start.
    :arg partition: Number of the outbox partition.
    """

    incarnation: str
    generation: int
    partition: int


@dataclass(frozen=True)
class RenewalRecord:
    """The life that a renewal has begun, of a flow whose Redis came back empty while it ran.

    :arg incarnation: The flow's life since then.
    :arg generation: First generation of that life.
    :arg epoch: First epoch of that life.
    """

    incarnation: str
    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row of the outbox, or a commit mark, whose ``step_id`` is ``None``."""

    id: int
    epoch: int
    step_id: str | None
    state_key: str
    change: bytes | None


def require_sqlite() -> None:
    """Refuse a Python whose SQLite can't read Bytewax's files.

    :raises ScratchError: If SQLite is older than 3.37.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ScratchError(
            f"this Python has SQLite {sqlite3.sqlite_version}, but 3.37 or newer is needed",
            "use a Python built with a newer SQLite",
        )


def part_file(folder: Path, partition: int) -> Path:
    """Name the file of an outbox partition as Bytewax does."""
    return folder / f"part-{partition}.sqlite3"


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: an outbox is made by Bytewax, never by opening it.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


@contextmanager
def _as_scratch_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ScratchError(
            f"the outbox {path} can't be written: {error}", "give --scratch a folder with room"
        ) from error


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Name an outbox that can't be read; a caller that finds the file locked may try again."""
    try:
        yield
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise
        raise ScratchError(
            f"the outbox {path} can't be read: {error}",
            "start the flow again: it resumes from what Redis has",
        ) from error


@contextmanager
def put_off_if_busy() -> Iterator[None]:
    """Leave for later what the engine's writes leave no time for.

    On a busy machine the engine may write all the time; a replicator that died of that would be
    restarted for nothing.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        logger.debug("outbox busy")


def prepare(
    path: Path,
    owner: OutboxOwner,
    *,
    execution: int | None,
    resume_epoch: int,
    restored: Iterable[tuple[str, str, bytes]],
    keep_last: frozenset[str] = frozenset(),
) -> int:
    """Turn a fresh recovery partition into an outbox from which the engine resumes a flow.

    :arg path: The file that Bytewax just made.
    :arg owner: Whose outbox it is.
    :arg execution: Number for the one ``exs`` row of the cluster; ``None`` in all files but one.
    :arg resume_epoch: First epoch of the execution; 2 or more where anything is restored.
    :arg restored: ``(engine step ID, engine state key, bytes)`` to load, each once in the cluster.
    :arg keep_last: Engine step IDs of sources and sinks; what is restored of them is the last row
        of each until it writes one.
    :returns: Number of restored rows.
    :raises ScratchError: If the disk can't take it.
    """
    with _as_scratch_error(path), closing(_connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        if execution is not None:
            db.execute(
                "INSERT INTO exs (ex_num, worker_count, resume_epoch) VALUES (?, 1, ?)",
                (execution, resume_epoch),
            )
        count = db.executemany(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
            (
                (step_id, key, resume_epoch - 1, pickle.dumps(data, protocol=5))
                for step_id, key, data in restored
            ),
        ).rowcount
        db.execute("COMMIT")
        # The triggers come last: they would divert the restored rows, too.
        db.executescript(_TABLES + _TRIGGERS)
        marks = ", ".join("?" for _ in keep_last)
        db.execute(
            f"""INSERT INTO outbox (epoch, step_id, state_key, change)
                SELECT snap_epoch, step_id, state_key, ser_change FROM snaps
                WHERE step_id IN ({marks})""",
            tuple(keep_last),
        )
        db.execute(
            "INSERT INTO stamp (incarnation, generation, part) VALUES (?, ?, ?)",
            (owner.incarnation, owner.generation, owner.partition),
        )
        return max(count, 0)


class Outbox:
    """Reads and prunes an outbox, from the replicator's process only.

    :arg path: The partition's file.
    :arg owner: Whose outbox it must be.
    :arg keep_last: Engine step IDs of sources and sinks, whose last rows are never deleted.
    :raises ReplicatorError: If the file belongs to another execution.
    """

    def __init__(self, path: Path, owner: OutboxOwner, keep_last: frozenset[str]) -> None:
        self._path = path
        self._keep_last = keep_last
        with _as_damage(path):
            self._db = _connect(path)
            found = self._db.execute("SELECT incarnation, generation, part FROM stamp").fetchone()
            self._db.executescript(_TEMPORARY)
        self._looked_up_to = 0
        if found != (owner.incarnation, owner.generation, owner.partition):
            raise ReplicatorError(
                f"the outbox {path} is stamped {found}, not {owner}",
                "start the flow again, and leave its scratch folder to it",
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def changed(self) -> int:
        """Give a number that is another one after another process has written."""
        with _as_damage(self._path):
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            return int(version)

    def commit_mark(self) -> int | None:
        """Give the epoch up to which every worker has written everything, ``None`` before any."""
        with _as_damage(self._path):
            (mark,) = self._db.execute("SELECT max(commit_epoch) FROM commits").fetchone()
            return None if mark is None else int(mark)

    def rows(self, after: int, up_to_epoch: int, max_bytes: int) -> list[OutboxRow]:
        """Read the rows and marks that may be shipped next, in the order of their IDs.

        :arg after: Id of the last row that Redis has.
        :arg up_to_epoch: The commit mark.
        :arg max_bytes: Stop after the row that reaches this.
        :returns: The first rows after ``after``, without rows above the mark.
        """
        with _as_damage(self._path):
            return self._rows(after, up_to_epoch, max_bytes)

    def _rows(self, after: int, up_to_epoch: int, max_bytes: int) -> list[OutboxRow]:
        taken: list[OutboxRow] = []
        size = 0
        cursor = self._db.execute(
            "SELECT id, epoch, step_id, state_key, change FROM outbox WHERE id > ? ORDER BY id",
            (after,),
        )
        with closing(cursor):  # ends the read transaction, else the log could not be recycled
            for row_id, epoch, step_id, state_key, change in cursor:
                if epoch > up_to_epoch:
                    break
                taken.append(OutboxRow(row_id, epoch, step_id, state_key, bytes_in(change)))
                size += len(change or b"")
                if size >= max_bytes:
                    break
        return taken

    def backlog(self, after: int) -> tuple[int, int]:
        """Measure the rows after an ID: those that Redis does not have yet.

        :arg after: Id of the last row that Redis has.
        :returns: Number of rows, and about how many bytes they take.
        """
        with _as_damage(self._path):
            rows, size = self._db.execute(
                "SELECT count(*), coalesce(sum(length(change)), 0) FROM outbox WHERE id > ?",
                (after,),
            ).fetchone()
            return int(rows), int(size) + int(rows) * _ROW_BYTES

    @property
    def renewal(self) -> RenewalRecord | None:
        """The last renewal of the flow while it ran, ``None`` where there was none."""
        with _as_damage(self._path):
            found = self._db.execute(
                "SELECT incarnation, generation, epoch FROM renewal ORDER BY rowid DESC LIMIT 1"
            ).fetchone()
        return None if found is None else RenewalRecord(*found)

    def record_renewal(self, record: RenewalRecord) -> None:
        """Record a renewal: a replicator that is restarted goes on with that life of the flow.

        :raises ScratchError: If the disk is full.
        """
        with _as_scratch_error(self._path):
            self._db.execute(
                "INSERT INTO renewal VALUES (?, ?, ?)",
                (record.incarnation, record.generation, record.epoch),
            )

    @property
    def spare(self) -> int:
        """Bytes of the file that deleted rows have left for new ones."""
        with _as_damage(self._path):
            (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (size,) = self._db.execute("PRAGMA page_size").fetchone()
            return int(pages) * int(size)

    @property
    def pruned(self) -> int:
        """ID up to which rows were deleted: no row at or below it can be sent again."""
        with _as_damage(self._path):
            (pruned,) = self._db.execute("SELECT pruned FROM stamp").fetchone()
            return int(pruned)

    def forget_restored(self) -> bool:
        """Delete the restored rows; the engine has loaded them once it commits an epoch.

        :returns: Whether all are gone; else the engine left no time for it.
        :raises ScratchError: If the disk is full.
        """
        with _as_scratch_error(self._path), put_off_if_busy():
            while self._db.execute(
                "DELETE FROM snaps WHERE rowid IN (SELECT rowid FROM snaps LIMIT 100)"
            ).rowcount:
                pass
            return True
        return False

    def prune(self, up_to: int) -> int:
        """Delete rows that Redis has had for longer than the margin, in short transactions.

        A busy outbox is no error: rows for which the engine's writes leave no time go with the next
        call.

        :arg up_to: Id of the last row to delete; last rows of sources and sinks stay.
        :returns: Number of rows deleted.
        :raises ScratchError: If the disk is full.
        """
        deleted = 0
        with _as_scratch_error(self._path), put_off_if_busy():
            self._find_last_rows()
            # First: a replicator that finds rows gone must find that they were deleted.
            self._db.execute("UPDATE stamp SET pruned = max(pruned, ?)", (up_to,))
            while True:
                # Begins at the first row of the table; kept rows there are few.
                chunk = self._db.execute(
                    f"""DELETE FROM outbox WHERE id IN (
                        SELECT id FROM outbox
                        WHERE id <= ? AND id NOT IN (SELECT id FROM temp.last_rows)
                        ORDER BY id LIMIT {_DELETE_CHUNK})""",
                    (up_to,),
                ).rowcount
                deleted += chunk
                if chunk < _DELETE_CHUNK:
                    break
        return deleted

    def _find_last_rows(self) -> None:
        """Note the last rows of sources and sinks, by a look at the rows since the last call.

        They are in a table of this connection alone. An index of the outbox would give them too,
        and would cost the engine time with each row that it writes.
        """
        (newest,) = self._db.execute("SELECT coalesce(max(id), 0) FROM outbox").fetchone()
        marks = ", ".join("?" for _ in self._keep_last)
        self._db.execute(
            f"""INSERT OR REPLACE INTO temp.last_rows (step_id, state_key, id)
                SELECT step_id, state_key, max(id) FROM outbox
                WHERE id > ? AND id <= ? AND step_id IN ({marks})
                GROUP BY step_id, state_key""",
            (self._looked_up_to, newest, *self._keep_last),
        )
        self._looked_up_to = newest
