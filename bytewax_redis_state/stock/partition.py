"""One partition of a recovery directory: an SQLite file that Bytewax has written.

Invariant: nothing is written beside the user's file. SQLite makes files beside a database in WAL
mode, also for a reader. So a file without a log is opened as immutable, and one with a log is
copied to a temporary folder, together with its log.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bytewax_redis_state.errors import StockStoreError
from bytewax_redis_state.stock.inert_pickle import LARGEST_IDLE_WINDOW
from bytewax_redis_state.stock.partition_file import PartitionFile

__all__ = ["WRONG_DIRECTORY", "StockPartition", "StockRow", "log_size", "open_partition"]

WRONG_DIRECTORY = "give the directory that the flow ran with -r"
"""The hint of an error about a directory that is not a recovery directory."""

_VERSION = 5  # user_version as Bytewax 0.21 writes it
_TABLES = {"parts", "exs", "fronts", "commits", "snaps"}
_OUTBOX_TABLES = {"outbox", "stamp"}
_ROOM_BESIDE_A_COPY = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StockRow:
    """A row of the table ``snaps``: the snapshot of one key in one epoch.

    :arg size: Bytes of step ID, key and state.
    :arg discarded: Whether the row says that the key was dropped.
    :arg change: The state's pickle; ``None`` where the row has none, or one that is too large to be
        that of an idle window.
    """

    step_id: str
    state_key: str
    epoch: int
    size: int
    discarded: bool
    change: bytes | None


@dataclass(frozen=True)
class StockPartition:
    """One file of a recovery directory, open.

    :arg path: The user's file.
    :arg index: The partition's number in its directory.
    :arg copied: Whether a copy is read, because there is a log beside the user's file.
    :arg rows: Number of rows in ``snaps``.
    :arg commit_epoch: The newest commit that the file knows of; ``None`` before the first.
    :arg file: Reads the file, or its copy.
    """

    path: Path
    index: int
    copied: bool
    rows: int
    commit_epoch: int | None
    file: PartitionFile

    def snaps(self) -> Iterator[StockRow]:
        """Stream the rows of ``snaps``: those of one key together, in the order of their epochs."""
        text = "length(CAST(step_id AS BLOB)) + length(CAST(state_key AS BLOB))"
        for row in self.file.rows(
            f"""SELECT step_id, state_key, snap_epoch,
                {text} + coalesce(length(ser_change), 0), ser_change IS NULL,
                CASE WHEN length(ser_change) <= {LARGEST_IDLE_WINDOW} THEN ser_change END
            FROM snaps ORDER BY step_id, state_key, snap_epoch"""
        ):
            step_id, state_key, epoch, size, discarded, change = row
            yield StockRow(step_id, state_key, epoch, size, bool(discarded), change)


def open_partition(path: Path, stack: ExitStack) -> StockPartition:
    """Open a partition without leaving a trace beside it.

    :arg path: The user's file.
    :arg stack: Closes the file, and removes its copy.
    :raises StockStoreError: If the file is damaged, or was not written by Bytewax 0.21.
    """
    copied = log_size(path) > 0
    read = _copy(path, stack) if copied else path
    file = stack.enter_context(closing(PartitionFile(read, immutable=not copied, name=path)))
    _require_version(file, path)
    ((commit_epoch,),) = file.rows("SELECT max(commit_epoch) FROM commits")
    ((rows,),) = file.rows("SELECT count(*) FROM snaps")
    return StockPartition(path, _index_of(file, path), copied, rows, commit_epoch, file)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def log_size(path: Path) -> int:
    """Tell the size of the log beside a file in bytes; 0 where there is none.

    An empty log is left by a program that only reads the database.
    """
    try:
        return _log_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def _copy(path: Path, stack: ExitStack) -> Path:
    """Copy a file together with the log that a killed run has left."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bytewax-doctor-")))
    needed = path.stat().st_size + log_size(path) + _ROOM_BESIDE_A_COPY
    if shutil.disk_usage(folder).free < needed:
        raise StockStoreError(
            f"{path.name} has a log, so it must be copied before it is read, but "
            f"{folder.parent} has less than the {needed // 2**20} MiB that this needs",
            "set TMPDIR to a folder with more room",
        )
    try:
        for original in (path, _log_of(path)):
            shutil.copyfile(original, folder / original.name)
    except OSError as error:
        raise StockStoreError(
            f"{path} can't be copied to {folder.parent}: {error}",
            "set TMPDIR to a folder that can be written to",
        ) from error
    return folder / path.name


def _require_version(file: PartitionFile, path: Path) -> None:
    tables = {name for (name,) in file.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables >= _TABLES:
        raise StockStoreError(f"{path} is a database, but not one of Bytewax", WRONG_DIRECTORY)
    # Our outbox is a file of Bytewax with two more tables. Its state is in Redis.
    if tables >= _OUTBOX_TABLES:
        raise StockStoreError(
            f"{path} is an outbox of bytewax-redis-state, whose state is in Redis", WRONG_DIRECTORY
        )
    ((version,),) = file.rows("PRAGMA user_version")
    if version != _VERSION:
        raise StockStoreError(
            f"{path} was written by another version of Bytewax: its format is {version}, and "
            f"Bytewax 0.21 writes format {_VERSION}",
            "run the flow once with Bytewax 0.21.1, which converts the file"
            if version < _VERSION
            else "this version of bytewax-redis-state reads only files of Bytewax 0.21",
        )


def _index_of(file: PartitionFile, path: Path) -> int:
    indexes: list[int] = [index for (index,) in file.rows("SELECT part_index FROM parts")]
    if len(indexes) != 1:
        raise StockStoreError(
            f"the table 'parts' of {path} has {len(indexes)} rows where one is expected",
            "the file is damaged: restore the recovery directory from a backup",
        )
    return indexes[0]
