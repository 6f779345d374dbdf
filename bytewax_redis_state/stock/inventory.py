"""The inventory of a recovery directory: its rows, counted by step and by partition.

Invariant: each row counts once: for a live key, as a tombstone, as superseded, or as above the
resume epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby

from bytewax_redis_state.stock.directory import RecoveryDirectory
from bytewax_redis_state.stock.inert_pickle import is_idle_window
from bytewax_redis_state.stock.partition import StockPartition, StockRow

__all__ = ["Inventory", "PartitionCounts", "StepCounts", "take_inventory"]

_ROWS_PER_REPORT = 10_000


@dataclass
class StepCounts:
    """The rows of one step.

    :arg step_id: ID of the step, as the engine writes it.
    :arg rows: All rows.
    :arg live_keys: Keys that have a state, which a resume would load.
    :arg idle_window_keys: Live keys whose windows are all closed: those of session windows, which
        Bytewax never drops.
    :arg tombstones: Rows that say that a key was dropped; Bytewax keeps them for ever.
    :arg superseded_rows: Rows of which the same key has a newer one.
    :arg rows_above_resume: Rows of epochs that never completed.
    :arg bytes: Size of step IDs, keys and states.
    """

    step_id: str
    rows: int = 0
    live_keys: int = 0
    idle_window_keys: int = 0
    tombstones: int = 0
    superseded_rows: int = 0
    rows_above_resume: int = 0
    bytes: int = 0


@dataclass
class PartitionCounts:
    """The rows and keys of one file, which decide how long a resume takes.

    :arg file: Name of the file.
    :arg rows: All rows.
    :arg keys: Keys that have a state or a tombstone.
    :arg copied: Whether a copy was read, because a killed run has left a log beside the file.
    """

    file: str
    rows: int = 0
    keys: int = 0
    copied: bool = False


@dataclass(frozen=True)
class Inventory:
    """The counts of a whole recovery directory.

    :arg file_bytes: Size of its files, logs included.
    :arg executions: How often the flow was started on it.
    :arg workers: Number of workers of the last execution.
    :arg resume_epoch: First epoch of the next execution.
    :arg outdated_partitions: Partitions that are older than the others, so that Bytewax refuses to
        resume.
    :arg partitions: Counts of each file.
    :arg steps: Counts of each step, in the order of step IDs.
    """

    file_bytes: int
    executions: int
    workers: int
    resume_epoch: int
    outdated_partitions: tuple[int, ...]
    partitions: tuple[PartitionCounts, ...]
    steps: tuple[StepCounts, ...]

    @property
    def total(self) -> StepCounts:
        """Sum up all steps."""
        made = StepCounts("")
        for step in self.steps:
            for name in vars(made).keys() - {"step_id"}:
                setattr(made, name, getattr(made, name) + getattr(step, name))
        return made


@dataclass
class _RowCounter:
    """Counts rows by step, over all partitions.

    :arg resume_epoch: Rows of this epoch and above belong to epochs that never completed.
    :arg progress: Gets the number of rows that were read.
    """

    resume_epoch: int
    progress: Callable[[int], None]
    steps: dict[str, StepCounts] = field(default_factory=dict)
    read: int = 0

    def count_partition(self, part: StockPartition) -> PartitionCounts:
        """Count the rows of one partition."""
        counts = PartitionCounts(part.path.name, copied=part.copied)
        for (step_id, _key), rows in groupby(part.snaps(), _key_of):
            step = self.steps.setdefault(step_id, StepCounts(step_id))
            rows_before, keys_before = step.rows, step.live_keys + step.tombstones
            self._count_key(step, rows)
            counts.rows += step.rows - rows_before
            counts.keys += step.live_keys + step.tombstones - keys_before
        return counts

    def _count_key(self, step: StepCounts, rows: Iterable[StockRow]) -> None:
        """Count the rows of one key, which come in the order of their epochs."""
        newest: StockRow | None = None
        for row in rows:
            self.read += 1
            if self.read % _ROWS_PER_REPORT == 0:
                self.progress(self.read)
            step.rows += 1
            step.bytes += row.size
            if row.epoch >= self.resume_epoch:
                step.rows_above_resume += 1
            else:
                step.superseded_rows += newest is not None
                newest = row
        if newest is None:
            return
        step.tombstones += newest.discarded
        step.live_keys += not newest.discarded
        step.idle_window_keys += newest.change is not None and is_idle_window(newest.change)


def _key_of(row: StockRow) -> tuple[str, str]:
    return row.step_id, row.state_key


def take_inventory(
    directory: RecoveryDirectory,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inventory:
    """Count the rows of a recovery directory, with one row in memory at a time.

    :arg directory: The recovery directory, open.
    :arg progress: Gets, now and then, the number of rows that were read and of all rows.
    :returns: The counts.
    :raises StockStoreInUseError: If a flow has started on the directory since it was opened.
    :raises StockStoreError: If a file is damaged.
    """
    total = sum(part.rows for part in directory.partitions)
    counter = _RowCounter(directory.resume_epoch, lambda done: progress(done, total))
    partitions = tuple(counter.count_partition(part) for part in directory.partitions)
    directory.require_unchanged()
    return Inventory(
        file_bytes=directory.file_bytes,
        executions=directory.executions,
        workers=directory.workers,
        resume_epoch=directory.resume_epoch,
        outdated_partitions=directory.outdated_partitions,
        partitions=partitions,
        steps=tuple(counter.steps[step_id] for step_id in sorted(counter.steps)),
    )
