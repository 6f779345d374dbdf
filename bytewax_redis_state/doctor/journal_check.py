"""The check of a partition: its progress, and its journal entry by entry."""

from __future__ import annotations

from typing import NamedTuple, cast

from bytewax_redis_state.doctor.checked_flow import CheckedFlow
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.recovery.records.cells import LOST_HINT
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Entry, Journal
from bytewax_redis_state.recovery.records.token import Token
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


class _Progress(NamedTuple):
    """The fields of a partition's progress, as Redis names them."""

    epoch: int
    row: int
    trimmed: int
    part: int = 0


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
        if before is None:
            return None
        journal = self._flow.keys.journal(self._partition, self._flow.manifest.generation)
        if not self._flow.client.exists(journal):
            self._say("error", f"the journal of {self._name} is missing", LOST_HINT)
            return None
        last_row = self._check_entries(before.trimmed)
        self._require_nothing_deleted(journal, before.trimmed)
        # Read again: a running flow has appended and trimmed while the entries were read.
        after = self._progress()
        if after is None:
            return None
        self._check_progress(after, last_row)
        return JournalRange(after.trimmed, after.epoch)

    def _progress(self) -> _Progress | None:
        key = self._flow.keys.progress(self._partition, self._flow.manifest.generation)
        fields = cast("dict[bytes, bytes]", self._flow.client.hgetall(key))
        fault = self._fault_of(fields)
        if fault:
            self._say("error", f"the progress of {self._name} is {fault}", LOST_HINT)
            return None
        try:
            numbers = {name: int(fields[name.encode()]) for name in ("epoch", "row", "trimmed")}
            return _Progress(**numbers, part=int(fields.get(b"part", b"0")))
        except KeyError as missing:
            name = missing.args[0].decode()
            self._say("error", f"the progress of {self._name} lacks the field {name!r}", LOST_HINT)
        except ValueError as error:
            self._say("error", f"the progress of {self._name} is damaged: {error}", LOST_HINT)
        return None

    def _fault_of(self, fields: dict[bytes, bytes]) -> str:
        """Tell why progress is not that of the manifest's start; empty where it is."""
        if not fields:
            return "missing"
        if fields.get(b"incarnation") != self._flow.manifest.incarnation.encode():
            return "of another incarnation of the flow"
        try:
            token = Token.parse(fields.get(b"generation", b""))
        except ValueError as error:
            return f"damaged: {error}"
        return "" if token == self._flow.manifest.token else f"of {self._flow.difference(token)}"

    def _check_progress(self, progress: _Progress, last_row: int) -> None:
        if last_row > progress.row and not progress.part:  # else a row is under way in pieces
            self._say(
                "error",
                f"the journal of {self._name} ends at row {last_row}, but its progress says "
                f"{progress.row}",
                LOST_HINT,
            )
        first = self._flow.manifest.resume_epoch
        if not first <= progress.trimmed <= progress.epoch:
            self._say(
                "error",
                f"the progress of {self._name} stands at epoch {progress.epoch}, and its journal "
                f"is trimmed below {progress.trimmed}, but the generation began at {first}",
                LOST_HINT,
            )

    # -- entries ------------------------------------------------------------------------------

    def _check_entries(self, trimmed: int) -> int:
        """Check every entry.

        :returns: The outbox row of the last entry.
        """
        manifest, client = self._flow.manifest, self._flow.client
        store = FencedStore(
            client, Scripts(client), self._flow.keys, manifest.incarnation, manifest.token
        )
        journal = Journal(store, self._partition)
        last_row = 0
        try:
            for entry in journal.entries(0, _LAST_EPOCH):
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
                LOST_HINT,
                kind=f"trimmed entries in the journal of {self._name}",
            )
        step, shard = entry.cell.step, entry.cell.shard
        if step not in self._flow.manifest.steps or not 0 <= shard < self._flow.manifest.shards:
            self._say(
                "error",
                f"{where} is of shard {shard} of step {step!r}, which the manifest does not list",
                LOST_HINT,
                kind=f"foreign entries in the journal of {self._name}",
            )
            return
        for raw, value in entry.changes.items():
            state_key = raw.decode()
            fault = value and self._usage.check(step, state_key, value)
            if fault:
                self._flow.findings.say_damaged(f"the value of {state_key!r} in {where}", fault)

    def _require_nothing_deleted(self, journal: bytes, trimmed: int) -> None:
        """Find out whether somebody deleted entries: a stream remembers its last entry's ID."""
        about = cast("dict[str, object]", self._flow.client.xinfo_stream(journal))
        newest = cast(bytes, about["last-generated-id"])
        last = cast("tuple[bytes, object] | None", about["last-entry"])
        # What a trim removed is not counted here, only what XDEL did. Redis 7 or newer tells.
        deleted = cast("bytes | None", about.get("max-deleted-entry-id"))
        epoch = int(newest.partition(b"-")[0])
        lost_tail = epoch >= trimmed and epoch > 0 and (last is None or last[0] != newest)
        if lost_tail or (deleted is not None and int(deleted.partition(b"-")[0]) > 0):
            self._say("error", f"entries of the journal of {self._name} were deleted", LOST_HINT)
