"""A recovery directory of Bytewax: opened to be read, and left exactly as it was.

Invariant: everything that is read is of one moment. A directory that a flow runs on is refused
before it is read. If a flow starts while it is read, it is refused afterwards.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bytewax_redis_state.errors import StockStoreError
from bytewax_redis_state.recovery.outbox.outbox import require_sqlite
from bytewax_redis_state.stock.partition import (
    WRONG_DIRECTORY,
    StockPartition,
    log_size,
    open_partition,
)
from bytewax_redis_state.stock.running_flow import in_use, require_unused

__all__ = ["RecoveryDirectory"]

_FIRST_EPOCH = 1
_ONE_DIRECTORY_EACH = "keep each recovery directory's files in a directory of their own"


class RecoveryDirectory:
    """Read the recovery directory of a flow that is not running.

    Use it as a context manager: temporary copies of its files live as long as the block.

    :arg directory: The directory that the flow ran with ``-r``.
    :raises StockStoreInUseError: If a flow is running on it.
    :raises StockStoreError: If it is not a complete recovery directory of Bytewax 0.21.
    """

    def __init__(self, directory: Path) -> None:
        require_sqlite()
        self._files = _partition_files(directory)
        self._state_before = _file_state(self._files)
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack) -> None:
        for path in self._files:
            require_unused(path)
        self.directory = self._files[0].parent
        opened = (open_partition(path, stack) for path in self._files)
        self.partitions = tuple(sorted(opened, key=lambda part: part.index))
        _require_complete(self.directory, self.partitions)
        self.file_bytes = sum(size + log for size, _changed, log in self._state_before.values())
        self._read_executions()

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
        """Refuse the directory if a flow has started on it since it was opened.

        :raises StockStoreInUseError: If a file has changed since the directory was opened.
        """
        if _file_state(self._files) != self._state_before:
            raise in_use(self.directory, "its files changed while they were read")

    def _read_executions(self) -> None:
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
        # A worker that has written no frontier is where the execution started.
        frontiers = dict.fromkeys(range(self.workers), started_at)
        for part in self.partitions:
            for worker, frontier in part.file.rows(
                f"SELECT worker_index, worker_frontier FROM fronts WHERE ex_num = {int(last)}"
            ):
                frontiers[worker] = max(frontier, frontiers.get(worker, frontier))
        self.resume_epoch = min(frontiers.values())

    @property
    def outdated_partitions(self) -> tuple[int, ...]:
        """Tell which partitions are older than the others, so that Bytewax refuses to resume."""
        newer = {
            part.index
            for part in self.partitions
            if part.commit_epoch is not None and part.commit_epoch > self.resume_epoch
        }
        return tuple(p.index for p in self.partitions if newer and p.index not in newer)


def _partition_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise StockStoreError(f"there is no directory {directory}", WRONG_DIRECTORY)
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".sqlite3")
    except OSError as error:
        raise StockStoreError(f"{directory} can't be read: {error}", "check who owns it") from error
    if not paths:
        raise StockStoreError(f"{directory} holds no part-*.sqlite3 file", WRONG_DIRECTORY)
    return paths


def _file_state(paths: list[Path]) -> dict[Path, tuple[int, int, int]]:
    """Give each file's size and time of change, and the size of its log."""
    state = {}
    for path in paths:
        status = path.stat()
        state[path] = (status.st_size, status.st_mtime_ns, log_size(path))
    return state


def _require_complete(directory: Path, partitions: tuple[StockPartition, ...]) -> None:
    counts = {
        count for part in partitions for (count,) in part.file.rows("SELECT part_count FROM parts")
    }
    if len(counts) > 1:
        raise StockStoreError(
            f"the files in {directory} are of several recovery directories: they name different "
            f"numbers of partitions, {' and '.join(map(str, sorted(counts)))}",
            _ONE_DIRECTORY_EACH,
        )
    count = counts.pop()
    found = [part.index for part in partitions]
    missing = [index for index in range(count) if index not in found]
    if missing:
        listed = ", ".join(map(str, missing))
        raise StockStoreError(
            f"{directory} lacks partition {listed} of {count}",
            "copy all partition files of the flow into one directory",
        )
    if len(found) > count:
        raise StockStoreError(
            f"{directory} holds {len(found)} files for {count} partitions", _ONE_DIRECTORY_EACH
        )
