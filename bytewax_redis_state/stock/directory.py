"""A recovery directory of stock Bytewax: opened to be read, and left exactly as it was.

Invariant: nothing is written beside the user's files. Opening a database in WAL mode makes files,
also for reading only, so a partition without a log is opened as immutable, and one with a log is
copied to a temporary folder, together with the log.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bytewax_redis_state.errors import StockStoreError, StockStoreInUseError
from bytewax_redis_state.recovery.outbox.outbox import StillPartition, require_sqlite
from bytewax_redis_state.stock.inert_pickle import LARGEST_IDLE_WINDOW

__all__ = ["RecoveryDirectory", "StockPartition", "StockRow"]

_VERSION = 5  # user_version as Bytewax 0.21 writes it
_TABLES = {"parts", "exs", "fronts", "commits", "snaps"}
_FIRST_EPOCH = 1
_ROOM_BESIDE_A_COPY = 64 * 1024 * 1024

# Where SQLite locks a file: a connection in WAL mode holds a shared lock here while it is open.
_LOCKED_FROM, _LOCKED_BYTES = 0x40000002, 510
_NO_LOCK = fcntl.F_UNLCK

_NOT_A_STORE = "give the directory that the flow ran with -r"


@dataclass(frozen=True, slots=True)
class StockRow:
    """A row of ``snaps``.

    :arg size: Bytes of step ID, key and state.
    :arg discarded: Whether it says that the key was dropped.
    :arg change: The state's pickle, ``None`` where it is too large to be that of an idle window.
    """

    step_id: str
    state_key: str
    epoch: int
    size: int
    discarded: bool
    change: bytes | None


@dataclass(frozen=True)
class StockPartition:
    """One file of the store.

    :arg path: The user's file.
    :arg index: Its number in the store.
    :arg copied: Whether a copy is read, because there is a log beside the file.
    :arg rows: Number of rows in ``snaps``.
    :arg commit_epoch: The last commit that it knows of, ``None`` before any.
    """

    path: Path
    index: int
    copied: bool
    rows: int
    commit_epoch: int | None
    file: StillPartition

    def snaps(self) -> Iterator[StockRow]:
        """Stream the rows, those of a key together and in the order of their epochs."""
        text = "length(CAST(step_id AS BLOB)) + length(CAST(state_key AS BLOB))"
        for row in self.file.rows(
            f"""SELECT step_id, state_key, snap_epoch,
                {text} + coalesce(length(ser_change), 0), ser_change IS NULL,
                CASE WHEN length(ser_change) <= {LARGEST_IDLE_WINDOW} THEN ser_change END
            FROM snaps ORDER BY step_id, state_key, snap_epoch"""
        ):
            step_id, state_key, epoch, size, discarded, change = row
            yield StockRow(step_id, state_key, epoch, size, bool(discarded), change)


class RecoveryDirectory:
    """Read a recovery directory of a flow that is not running.

    Use it as a context manager; the temporary copies live as long as the block.

    :arg directory: What the flow ran with ``-r``.
    :raises StockStoreInUseError: If a flow is running on it.
    :raises StockStoreError: If it is no complete store of Bytewax 0.21.
    """

    def __init__(self, directory: Path) -> None:
        require_sqlite()
        self._paths = _part_paths(directory)
        self._before = _looks(self._paths)
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack) -> None:
        for path in self._paths:
            _require_nobody(path)
        self.directory = self._paths[0].parent
        self.partitions = tuple(
            sorted((_opened(path, stack) for path in self._paths), key=lambda part: part.index)
        )
        _require_complete(self.partitions)
        self.file_bytes = sum(size + log for size, _changed, log in self._before.values())
        self._read_progress()

    def __enter__(self) -> RecoveryDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def require_unchanged(self) -> None:
        """Refuse what was read if a flow has started meanwhile.

        :raises StockStoreInUseError: If a file has changed since the store was opened.
        """
        if _looks(self._paths) != self._before:
            raise _in_use(self.directory, "it changed while it was read")

    def _read_progress(self) -> None:
        """Find the resume epoch as the engine does: the least frontier of the last execution."""
        executions = {
            number: (workers, epoch)
            for part in self.partitions
            for number, workers, epoch in part.file.rows(
                "SELECT ex_num, worker_count, resume_epoch FROM exs"
            )
        }
        self.executions = len(executions)
        self.workers, self.resume_epoch = 1, _FIRST_EPOCH
        if not executions:
            return
        last = max(executions)
        self.workers, started_at = executions[last]
        frontiers = dict.fromkeys(range(self.workers), started_at)
        for part in self.partitions:
            for worker, frontier in part.file.rows(
                f"SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = {int(last)}"
            ):
                frontiers[worker] = max(frontier, frontiers.get(worker, frontier))
        self.resume_epoch = min(frontiers.values())

    @property
    def outdated_partitions(self) -> tuple[int, ...]:
        """Tell which partitions are older than the others, so that stock refuses to resume."""
        ahead = {
            part.index
            for part in self.partitions
            if part.commit_epoch is not None and part.commit_epoch > self.resume_epoch
        }
        return tuple(p.index for p in self.partitions if ahead and p.index not in ahead)


def _part_paths(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise StockStoreError(f"there is no directory {directory}", _NOT_A_STORE)
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".sqlite3")
    except OSError as error:
        raise StockStoreError(f"{directory} can't be read: {error}", _NOT_A_STORE) from error
    if not paths:
        raise StockStoreError(f"{directory} holds no part-*.sqlite3 file", _NOT_A_STORE)
    return paths


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _log_size(path: Path) -> int:
    """Tell how large the log beside a file is; an empty one is what a mere reader leaves."""
    try:
        return _log_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def _looks(paths: list[Path]) -> dict[Path, tuple[int, int, int]]:
    """Give size and time of change of each file, and the size of its log."""
    looks = {}
    for path in paths:
        status = path.stat()
        looks[path] = (status.st_size, status.st_mtime_ns, _log_size(path))
    return looks


# -- is a flow running? ------------------------------------------------------------------------


def _in_use(path: Path, how: str) -> StockStoreInUseError:
    return StockStoreInUseError(f"a flow is running on {path}: {how}", "stop the flow first")


def _require_nobody(path: Path) -> None:
    try:
        with path.open("rb") as file:
            holder = _lock_holder(file.fileno())
    except OSError as error:
        raise StockStoreError(f"{path} can't be read: {error}", "check who owns it") from error
    if holder is not None:
        raise _in_use(path.parent, f"process {holder} holds {path.name} open")


def _lock_holder(descriptor: int) -> int | None:
    """Ask which process holds SQLite's lock, without taking it even for a moment."""
    wanted = (fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_FROM, _LOCKED_BYTES, 0)
    try:
        if sys.platform == "darwin":
            kind, whence, start, length, process = wanted
            asked = struct.pack("qqihh", start, length, process, kind, whence)
            answer = struct.unpack("qqihh", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
            return answer[2] if answer[3] != _NO_LOCK else None
        answer = struct.unpack(
            "hhqqi", fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("hhqqi", *wanted))
        )
    except OSError:
        # A file system without locks: that the files change while they are read still shows.
        return None
    return answer[4] if answer[0] != _NO_LOCK else None


# -- opening one partition -----------------------------------------------------------------------


def _opened(path: Path, stack: ExitStack) -> StockPartition:
    copied = _log_size(path) > 0
    read = _copied(path, stack) if copied else path
    file = stack.enter_context(closing(StillPartition(read, immutable=not copied, name=path)))
    _require_version(file, path)
    ((index,),) = _one(file, path, "SELECT part_index FROM parts")
    ((commit_epoch,),) = _one(file, path, "SELECT max(commit_epoch) FROM commits")
    ((rows,),) = _one(file, path, "SELECT count(*) FROM snaps")
    return StockPartition(path, index, copied, rows, commit_epoch, file)


def _copied(path: Path, stack: ExitStack) -> Path:
    """Copy a file with the log that a killed run left, to be read together."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bytewax-doctor-")))
    needed = path.stat().st_size + _log_size(path) + _ROOM_BESIDE_A_COPY
    if shutil.disk_usage(folder).free < needed:
        raise StockStoreError(
            f"{path.name} has a log and must be copied to be read, and {folder.parent} lacks the "
            f"{needed // 2**20} MiB",
            "point TMPDIR to a folder with room",
        )
    try:
        for one in (path, _log_of(path)):
            shutil.copyfile(one, folder / one.name)
    except OSError as error:
        raise StockStoreError(f"{path} can't be copied: {error}", "set TMPDIR") from error
    return folder / path.name


def _require_version(file: StillPartition, path: Path) -> None:
    tables = {name for (name,) in file.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables >= _TABLES:
        raise StockStoreError(f"{path} is a database, but not one of Bytewax", _NOT_A_STORE)
    if {"outbox", "stamp"} <= tables:
        raise StockStoreError(
            f"{path} is an outbox of our own, whose state is in Redis", _NOT_A_STORE
        )
    ((version,),) = file.rows("PRAGMA user_version")
    if version != _VERSION:
        raise StockStoreError(
            f"{path} was written by another Bytewax: its version is {version}, 0.21 writes "
            f"{_VERSION}",
            "run the flow once with Bytewax 0.21.1, which brings the file up to date"
            if version < _VERSION
            else "this package knows Bytewax 0.21.1",
        )


def _one(file: StillPartition, path: Path, sql: str) -> list[tuple[int]]:
    found = list(file.rows(sql))
    if len(found) != 1:
        raise StockStoreError(
            f"{path} says {len(found)} times what it is", "make the store anew, or take a backup"
        )
    return found


def _require_complete(partitions: tuple[StockPartition, ...]) -> None:
    folder = partitions[0].path.parent
    counts = {
        count for part in partitions for (count,) in part.file.rows("SELECT part_count FROM parts")
    }
    if len(counts) > 1:
        raise StockStoreError(
            f"the files in {folder} are of several stores: {sorted(counts)} partitions each",
            "keep the files of one store in one directory",
        )
    count = counts.pop()
    found = [part.index for part in partitions]
    missing = [index for index in range(count) if index not in found]
    if missing:
        listed = ", ".join(map(str, missing))
        raise StockStoreError(
            f"{folder} lacks partition {listed} of {count}",
            "copy all part files of the store into one directory",
        )
    if len(found) > count:
        raise StockStoreError(
            f"{folder} holds {len(found)} files of {count} partitions",
            "keep the files of one store in one directory",
        )
