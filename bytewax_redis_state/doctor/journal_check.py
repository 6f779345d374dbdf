"""The check of a partition: its progress, and its journal entry by entry."""

from __future__ import annotations

from typing import NamedTuple

from bytewax_redis_state.doctor.checked_flow import CheckedFlow
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Entry, Journal
from bytewax_redis_state.recovery.records.progress import Progress
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.scripts import Scripts

__all__ = ["JournalCheck", "JournalRange"]

_LAST_EPOCH = 2**63


class JournalRange(NamedTuple):
    """Which epochs a journal holds.

    :arg begin: The first epoch that is not trimmed away.
    :arg end: The first epoch that is not committed yet.
    """

    begin: int
    end: int


class JournalCheck:
    """Check the journal of one partition.

    :arg flow: The flow.
    :arg usage: Checks and counts the values in the journal's entries.
    :arg partition: Number of the outbox partition.
    """

    def __init__(self, flow: CheckedFlow, usage: KeyUsage, partition: int) -> None:
        self._flow = flow
        self._usage = usage
        self._partition = partition
        self._name = f"partition {partition}"
        self._say = flow.findings.say
        self.entries = 0
        """Number of entries in the journal. No checkpoint has folded them yet."""

    def check(self) -> JournalRange | None:
        """Check progress and journal, and progress again.

        :returns: Which epochs the journal holds; ``None`` where that can't be told.
        """
        before = self._progress()
        last_row = self._check_entries(before.trimmed if before else 0)
        if before is None:
            return None
        # Read again: a running flow has appended and trimmed while the entries were read.
        after = self._progress()
        if after is None:
            return None
        self._check_progress(after, last_row)
        return JournalRange(after.trimmed, after.epoch)

    @property
    def _journal(self) -> Journal:
        manifest, client = self._flow.manifest, self._flow.client
        store = FencedStore(
            client, Scripts(client), self._flow.keys, manifest.incarnation, manifest.token
        )
        return Journal(store, self._partition)

    def _progress(self) -> Progress | None:
        """Read progress, and compare the journal with it, as a start does."""
        try:
            return self._journal.look()
        except StateLostError as error:
            self._say("error", error.message, error.hint)
            return None

    def _check_progress(self, progress: Progress, last_row: int) -> None:
        if last_row > progress.row and not progress.part:  # else a row is under way in pieces
            self._say(
                "error",
                f"the journal of {self._name} ends at row {last_row}, but its progress says "
                f"{progress.row}",
                way_out(self._flow.keys),
            )
        first = self._flow.manifest.resume_epoch
        if not first <= progress.trimmed <= progress.epoch:
            self._say(
                "error",
                f"the progress of {self._name} stands at epoch {progress.epoch}, and its journal "
                f"is trimmed below {progress.trimmed}, but the generation began at {first}",
                way_out(self._flow.keys),
            )

    # -- entries ------------------------------------------------------------------------------

    def _check_entries(self, trimmed: int) -> int:
        """Check every entry.

        :returns: The outbox row of the last entry.
        """
        last_row = 0
        try:
            for entry in self._journal.entries(0, _LAST_EPOCH):
                self.entries += 1
                last_row = entry.row
                self._check_entry(entry, trimmed)
        except StateLostError as error:
            self._say("error", error.message, error.hint)
        return last_row

    def _check_entry(self, entry: Entry, trimmed: int) -> None:
        where = f"entry {entry.epoch}-{entry.number} of {self._name}"
        if entry.epoch < trimmed:
            self._say(
                "error",
                f"{where} is still in the journal, which is trimmed below epoch {trimmed}",
                way_out(self._flow.keys),
                kind=f"trimmed entries in the journal of {self._name}",
            )
        step, shard = entry.cell.step, entry.cell.shard
        if step not in self._flow.manifest.steps or not 0 <= shard < self._flow.manifest.shards:
            self._say(
                "error",
                f"{where} is of shard {shard} of step {step!r}, which the manifest does not list",
                way_out(self._flow.keys),
                kind=f"foreign entries in the journal of {self._name}",
            )
            return
        for raw, value in entry.changes.items():
            state_key = raw.decode()
            fault = value and self._usage.check(step, state_key, value)
            if fault:
                self._flow.findings.say_damaged(f"the value of {state_key!r} in {where}", fault)
