"""The shipper: appends the rows of the outbox to the journal.

Invariant: it ships rows up to the commit mark only, in order and once. Redis says where it stands:
an append is a compare-and-set on the last row, and on a mismatch shipping goes on from the row that
Redis has, forwards or backwards.
"""

from __future__ import annotations

import logging
import sys

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.recovery.outbox.outbox import Outbox
from bytewax_redis_state.recovery.records.journal import JournalMovedError
from bytewax_redis_state.recovery.records.manifest import note_pickled
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.recovery.replicator.renewal import Renewal
from bytewax_redis_state.recovery.replicator.row_translator import RowTranslator
from bytewax_redis_state.server.translation import translated

__all__ = ["Shipper"]

logger = logging.getLogger(__name__)

_BATCH_BYTES = 4 * 1024 * 1024


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
        self.row = self._row_in_redis()
        self.progress = config.resume_epoch
        self.shipped = 0
        self.has_committed = False
        if self._is_renewing:
            self._find_answers()
        self._require_rows()

    @property
    def _is_renewing(self) -> bool:
        return self._renewal is not None and not self._renewal.is_done

    def _row_in_redis(self) -> int:
        """Go on where Redis stands: that covers a replicator that was killed and restarted."""
        key = self._config.keys.progress(self._config.partition, self._config.generation)
        with translated(self._connection.address):
            row = self._connection.client.hget(key, "row")
        if row is None:
            raise StateLostError(
                f"the progress of partition {self._config.partition} is missing in Redis",
                "Redis was emptied while the flow ran; start the flow again",
            )
        return int(row)

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
        translate = self._translator.entry
        try:
            with translated(self._connection.address):
                entries = [entry for row in rows if (entry := translate(row)) is not None]
                self._note_pickled()
                self._journal.append(self.row, rows[-1].id, entries, progress)
        except JournalMovedError as moved:
            logger.info("journal stands at row=%d expected=%d", moved.row, self.row)
            self.row = moved.row
            self._require_rows()
            return True
        self.row = rows[-1].id
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

    @property
    def backlog(self) -> int:
        """Number of rows that Redis does not have."""
        return self._outbox.backlog(self.row)[0]
