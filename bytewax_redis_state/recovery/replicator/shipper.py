"""The shipper: appends the rows of the outbox to the journal.

Invariant: it ships rows up to the commit mark only, in order and once, a large row in pieces. Redis
says where it stands: an append is a compare-and-set on the place, and on a mismatch shipping goes
on from the place that Redis has, forwards or backwards.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import cast

from bytewax_redis_state.codec.delta import unpack_changes
from bytewax_redis_state.errors import ReplicatorError, ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.outbox.outbox import Outbox, OutboxRow
from bytewax_redis_state.recovery.records.journal import Entry, JournalMovedError, Place
from bytewax_redis_state.recovery.records.manifest import note_pickled
from bytewax_redis_state.recovery.records.progress import Progress
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.recovery.replicator.renewal import Renewal
from bytewax_redis_state.recovery.replicator.row_translator import RowTranslator
from bytewax_redis_state.server.argument_limit import LEAST_LIMIT, takes_argument
from bytewax_redis_state.server.translation import translated

__all__ = ["Shipper"]

logger = logging.getLogger(__name__)

_BATCH_BYTES = 4 * 1024 * 1024
_APPEND_BYTES = 2 * _BATCH_BYTES


class Shipper:
    """Ships one outbox, batch by batch.

    :arg config: Of the replicator.
    :arg connection: To append with.
    :arg outbox: Where the rows are.
    :arg renewal: Of a flow that Redis has lost while it ran.
    :raises StateLostError: If Redis lacks the partition, or rows that the outbox no longer has.
    :raises ServerUnavailableError: If Redis can't be asked.
    """

    def __init__(
        self,
        config: ReplicatorConfig,
        connection: ReplicatorConnection,
        outbox: Outbox,
        renewal: Renewal | None,
    ) -> None:
        self._config = config
        self._connection = connection
        self._outbox = outbox
        self._renewal = renewal
        self._journal = connection.journal()
        self._translator = RowTranslator(config, renewal)
        self._noted: set[str] = set()
        self._place = self._place_in_redis()
        self.progress = config.resume_epoch
        self.shipped = 0
        self.has_committed = False
        if self._is_renewing:
            self._find_answers()
        self._require_rows()

    @property
    def _is_renewing(self) -> bool:
        return self._renewal is not None and not self._renewal.is_done

    @property
    def row(self) -> int:
        """The last row that Redis has as a whole."""
        return self._place.row

    def _place_in_redis(self) -> Place:
        """Go on where Redis stands: that covers a replicator that was killed and restarted."""
        key = self._config.keys.progress(self._config.partition, self._config.generation)
        with translated(self._connection.address):
            found = cast("dict[bytes, bytes]", self._connection.client.hgetall(key))
        progress = Progress.parse(self._config.keys, key, found, self._config.incarnation)
        return Place(progress.row, progress.part)

    def _find_answers(self) -> None:
        """Find the cells that had answered before this replicator was started."""
        after = 0
        while after < self.row:
            rows = self._outbox.rows(after, sys.maxsize, _BATCH_BYTES)
            for row in rows:
                if row.id <= self.row:
                    self._translator.entry(row)
            after = rows[-1].id if rows else self.row

    def _require_rows(self) -> None:
        """Refuse to go on from a row after which some rows have left the outbox.

        :raises StateLostError: If Redis has lost more than the margin.
        """
        if self._is_renewing:
            return  # the answers of the shards hold all that the rows before them held
        if self.row < self._outbox.pruned:
            raise StateLostError(
                f"Redis has lost more than the last {self._config.margin:g} s of partition "
                f"{self._config.partition}: it stands at row {self.row} of the outbox, "
                f"which begins after {self._outbox.pruned}",
                "start the flow again: it resumes from what Redis has",
            )

    def ship(self) -> bool:
        """Ship one batch.

        :returns: Whether there was anything to ship; then there may be more.
        :raises ServerUnavailableError: If Redis takes nothing now.
        :raises FencedError: If another execution took the flow over.
        :raises StateLostError: If Redis has lost what can't be sent again.
        """
        mark = self._outbox.commit_mark()
        if mark is None:
            return False
        self.has_committed = True
        rows = self._outbox.rows(self.row, mark, _BATCH_BYTES)
        if not rows:
            return False
        marks = [row.epoch for row in rows if row.step_id is None]
        # Rows that were in the outbox before a renewal belong to the first epoch after it.
        progress = max(max(marks) + 1, self._config.resume_epoch) if marks else None
        try:
            for entries, after in self._appends(rows):
                epoch = progress if after.row == rows[-1].id else None
                self._append(after, entries, epoch)
        except JournalMovedError as moved:
            logger.info("journal stands at row=%s expected=%s", moved.place, self._place)
            self._place = moved.place
            self._require_rows()
            return True
        self.progress = progress or self.progress
        self.shipped += len(rows)
        return True

    def _note_pickled(self) -> None:
        """Note in the manifest which steps have pickled state, before the first pickle is sent.

        Where the manifest is not this start's any longer, the append says why.
        """
        steps = self._translator.pickled - self._noted
        if steps and note_pickled(self._connection.store, steps):
            self._noted |= steps

    def _append(self, after: Place, entries: Sequence[Entry], epoch: int | None) -> None:
        try:
            with translated(self._connection.address):
                self._note_pickled()
                self._journal.append(self._place, after, entries, epoch)
        except ServerUnavailableError:
            self._require_taken(entries)
            raise
        self._place = after

    def _require_taken(self, entries: Sequence[Entry]) -> None:
        """Tell a Redis that refuses a large state from one that is away.

        :raises ReplicatorError: If it refuses one; names the step and the key.
        """
        config, client = self._config, self._connection.client
        journal = config.keys.journal(config.partition, config.generation)
        large = max(entries, key=lambda entry: len(entry.delta), default=None)
        if large is None or len(large.delta) < LEAST_LIMIT:
            return
        if not takes_argument(client, journal, len(large.delta)):
            state_key = next(iter(unpack_changes(large.delta))).decode(errors="replace")
            raise ReplicatorError(
                f"Redis takes no argument of {len(large.delta):,} bytes, which the state of key "
                f"{state_key!r} of step {large.cell.step!r} has: its proto-max-bulk-len is less",
                "raise proto-max-bulk-len in Redis, or keep less in one state; then start the flow "
                "again",
            )

    def _appends(self, rows: Sequence[OutboxRow]) -> Iterator[tuple[list[Entry], Place]]:
        """Cut a batch where it is too large for one append; a row may be cut, too.

        :returns: The entries of each append, and the place after it.
        """
        entries: list[Entry] = []
        size, whole, done = 0, self._place.row, self._place.part
        for row in rows:
            entry = self._translator.entry(row)
            for piece in entry.pieces() if entry is not None else ():
                if piece.part < done:
                    continue
                if entries and size + len(piece.delta) > _APPEND_BYTES:
                    yield entries, Place(whole, piece.part)
                    entries, size = [], 0
                entries.append(piece)
                size += len(piece.delta)
            whole, done = row.id, 0
        yield entries, Place(whole)

    @property
    def backlog(self) -> int:
        """Number of rows that Redis does not have."""
        return self._outbox.backlog(self.row)[0]
