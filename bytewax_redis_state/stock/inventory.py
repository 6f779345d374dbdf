"""What a recovery directory of stock Bytewax holds, counted, and what it costs.

Invariant: each row counts once: as a live key, a tombstone, superseded, or above the resume epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from bytewax_redis_state.stock.directory import RecoveryDirectory, StockPartition, StockRow
from bytewax_redis_state.stock.inert_pickle import is_idle_window

__all__ = [
    "Findings",
    "PartitionFindings",
    "StepFindings",
    "own_resume_seconds",
    "stock_resume_seconds",
    "survey",
]

_ROWS_PER_REPORT = 10_000

# Measured on stock Bytewax 0.21.1, one partition: 100k keys 7.5 s, 200k 28 s, 400k 124 s. Each page
# of rows costs a walk through all rows.
_ROWS_PER_PAGE = 1000
_SECONDS_PER_ROW_AND_PAGE = 0.75e-6
# Measured on ours, start to first new item, in docs/benchmarks.md: 100k keys 0.5 s, 1M 2.7 s.
_OWN_SECONDS = 0.3
_OWN_SECONDS_PER_KEY = 2.4e-6


@dataclass
class StepFindings:
    """The rows of one step.

    :arg step_id: As the engine writes it.
    :arg rows: All of them.
    :arg live_keys: Keys with a state, as a resume would load them.
    :arg idle_window_keys: Those among them whose windows are all closed: sessions, which Bytewax
        never drops.
    :arg tombstones: Rows that say that a key was dropped; Bytewax keeps them for ever.
    :arg superseded_rows: With a newer row of the same key.
    :arg rows_above_resume: Of epochs that never completed; a resume loads them not, or too late.
    :arg bytes: Of step IDs, keys and states.
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
class PartitionFindings:
    """One file: what decides on how long a resume takes, and how it was read.

    :arg file: Name of the file.
    :arg rows: In it.
    :arg keys: With a state or a tombstone.
    :arg copied: Whether a copy was read, because a killed run left a log beside the file.
    """

    file: str
    rows: int = 0
    keys: int = 0
    copied: bool = False


@dataclass(frozen=True)
class Findings:
    """A whole store.

    :arg file_bytes: Of the files, logs included.
    :arg executions: How often the flow was started on it.
    :arg workers: Of the last execution.
    :arg resume_epoch: First epoch of the next execution.
    :arg outdated_partitions: Older than the others: stock refuses to resume.
    """

    file_bytes: int
    executions: int
    workers: int
    resume_epoch: int
    outdated_partitions: tuple[int, ...]
    partitions: tuple[PartitionFindings, ...]
    steps: tuple[StepFindings, ...]

    @property
    def total(self) -> StepFindings:
        """Sum up all steps."""
        made = StepFindings("")
        for step in self.steps:
            for name in vars(made).keys() - {"step_id"}:
                setattr(made, name, getattr(made, name) + getattr(step, name))
        return made

    @property
    def stock_resume_seconds(self) -> float:
        """Estimate a resume by stock Bytewax, with as many workers as last time."""
        return stock_resume_seconds(self.partitions, self.workers)


def stock_resume_seconds(partitions: Sequence[PartitionFindings], workers: int) -> float:
    """Estimate how long stock Bytewax reads before it goes on.

    :arg partitions: Read side by side, as far as there are workers.
    :arg workers: Of the whole cluster.
    :returns: Seconds on the machine that the model was measured on.
    """
    each = [
        math.ceil(part.keys / _ROWS_PER_PAGE) * part.rows * _SECONDS_PER_ROW_AND_PAGE
        for part in partitions
    ]
    return max(*each, sum(each) / max(workers, 1), 0.0)


def own_resume_seconds(keys: int) -> float:
    """Estimate how long a flow with its state in Redis takes from its start to a first item."""
    return _OWN_SECONDS + keys * _OWN_SECONDS_PER_KEY


@dataclass
class _Count:
    """The steps as far as they have been counted, over all partitions."""

    resume_epoch: int
    progress: Callable[[int], None]
    steps: dict[str, StepFindings] = field(default_factory=dict)
    done: int = 0

    def partition(self, part: StockPartition) -> PartitionFindings:
        found = PartitionFindings(part.path.name, copied=part.copied)
        for (step_id, _key), rows in groupby(part.snaps(), _key_of):
            step = self.steps.setdefault(step_id, StepFindings(step_id))
            before, keys = step.rows, step.live_keys + step.tombstones
            self._key(step, rows)
            found.rows += step.rows - before
            found.keys += step.live_keys + step.tombstones - keys
        return found

    def _key(self, step: StepFindings, rows: Iterable[StockRow]) -> None:
        newest: StockRow | None = None
        for row in rows:
            self.done += 1
            if self.done % _ROWS_PER_REPORT == 0:
                self.progress(self.done)
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


def survey(
    store: RecoveryDirectory, progress: Callable[[int, int], None] = lambda done, total: None
) -> Findings:
    """Count what a store holds, one row in memory at a time.

    :arg store: Open.
    :arg progress: Gets how many rows of how many have been read, now and then.
    :returns: The findings; steps in the order of their IDs.
    :raises StockStoreInUseError: If a flow has started meanwhile.
    :raises StockStoreError: If a file is damaged.
    """
    total = sum(part.rows for part in store.partitions)
    count = _Count(store.resume_epoch, lambda done: progress(done, total))
    partitions = tuple(count.partition(part) for part in store.partitions)
    store.require_unchanged()
    return Findings(
        file_bytes=store.file_bytes,
        executions=store.executions,
        workers=store.workers,
        resume_epoch=store.resume_epoch,
        outdated_partitions=store.outdated_partitions,
        partitions=partitions,
        steps=tuple(count.steps[step_id] for step_id in sorted(count.steps)),
    )
