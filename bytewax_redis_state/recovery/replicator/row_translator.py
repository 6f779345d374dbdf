"""RowTranslator: makes journal entries of outbox rows.

Invariant: the order of rows is the order of entries, and each row becomes one entry or none.
"""

from __future__ import annotations

from bytewax_redis_state.codec.delta import pack_delta, unpack_full_delta, unpack_mark
from bytewax_redis_state.codec.envelope import is_pickle
from bytewax_redis_state.dataflow.shards.shard_names import shard_of_name
from bytewax_redis_state.errors import ReplicatorError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.outbox.outbox import OutboxRow
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.journal import Entry
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.renewal import Renewal

__all__ = ["RowTranslator"]

_EMPTY_DELTA = pack_delta({})


class RowTranslator:
    """Translates the rows of one outbox.

    :arg config: Of the replicator.
    :arg renewal: Gets the answers of shards; ``None`` where the flow was not renewed.
    """

    def __init__(self, config: ReplicatorConfig, renewal: Renewal | None) -> None:
        self._config = config
        self._renewal = renewal
        self.pickled: set[str] = set()
        """Short names of the steps of which a row held a pickle, or may have."""

    def entry(self, row: OutboxRow) -> Entry | None:
        """Translate a row.

        :returns: The entry; ``None`` for a commit mark, an empty delta and restored state.
        :raises ReplicatorError: If the row is of a step that the flow does not have.
        """
        if row.step_id is None or row.change in (None, _EMPTY_DELTA):
            return None
        if row.step_id not in self._config.steps:
            raise ReplicatorError(
                f"the engine wrote a row for the step {row.step_id!r}, which the flow "
                f"{self._config.flow_id!r} does not have",
                "this is a bug of bytewax-redis-state: please report it",
            )
        name, kind = self._config.steps[row.step_id]
        change = row.change or b""
        if kind != "keyed":
            return self._flat_entry(row, name, change)
        if row.epoch < self._config.resume_epoch:
            return None
        cell = Cell(name, shard_of_name(row.state_key))
        change, is_marked = unpack_mark(change)
        if is_marked:
            self.pickled.add(name)
        answer = unpack_full_delta(change)
        if answer is not None:
            change = answer.delta
            if self._renewal is not None:
                self._renewal.take(cell, row.epoch, answer)
        return Entry(row.epoch, row.id, cell, change)

    def _flat_entry(self, row: OutboxRow, name: str, change: bytes) -> Entry | None:
        """Translate a row of a source or sink.

        In a renewal its last row counts whatever its epoch is: an idle partition writes no other.
        """
        epoch = row.epoch
        if epoch < self._config.resume_epoch:
            if self._renewal is None:
                return None  # restored
            epoch = self._config.resume_epoch
        if is_pickle(change):
            self.pickled.add(name)
        cell = Cell(name, shard_of(row.state_key, self._config.shards))
        return Entry(epoch, row.id, cell, pack_delta({row.state_key: change}))
