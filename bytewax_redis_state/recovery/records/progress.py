"""Progress: how far an outbox partition is, and what its journal has to hold.

============  ===================================================================================
field         holds
============  ===================================================================================
incarnation   the flow's life
generation    who may write: the fencing token, ``<number>-<start ID>``
fenced        token of the start that has shut the partition, where one has
epoch         everything below it is in the journal
row           the last outbox row that is in the journal as a whole
part          how many pieces of the next row are in it, where there are any
trimmed       everything below this epoch has left the journal
time          Redis's time of the last commit, in milliseconds since 1970
entries       how many entries the journal holds: appends add, trims subtract what they removed
last          ID of the newest entry that was ever appended
safe          everything below it is on all replicas
============  ===================================================================================

Invariant: what the scripts have put into a journal is there, or the loss is named: the number of
entries and the ID of the newest one are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.fields import Fields, damaged
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["Partition", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What the progress of a partition says.

    :arg token: Who may write.
    :arg epoch: Everything below it is in the journal.
    :arg row: The last outbox row that is in the journal.
    :arg trimmed: The journal holds nothing below it.
    :arg time: Redis's time of the last commit, milliseconds since 1970.
    :arg entries: How many entries the journal must hold.
    :arg last: ID of the newest entry that was ever appended.
    :arg safe: Everything below it is on all replicas; ``None`` where nobody has asked.
    :arg part: How many pieces of the row after ``row`` are in the journal.
    """

    token: Token
    epoch: int
    row: int
    trimmed: int
    time: int
    entries: int
    last: str
    safe: int | None = None
    part: int = 0

    @classmethod
    def parse(
        cls, keys: FlowKeys, key: bytes, found: Mapping[bytes, bytes], incarnation: str
    ) -> Progress:
        """Read the hash that Redis holds.

        :arg keys: Of the flow.
        :arg key: Of the progress.
        :arg found: As HGETALL gives it.
        :arg incarnation: The flow's life.
        :raises StateLostError: If it is missing, damaged, or of another life of the flow.
        """
        name = key.decode()
        if not found:
            raise StateLostError(f"the progress {name!r} is missing", way_out(keys))
        fields = Fields(keys, key, found)
        if fields.raw("incarnation") != incarnation.encode():
            raise StateLostError(
                f"the progress {name!r} is of another life of the flow", way_out(keys)
            )
        progress = cls(
            token=fields.token("generation"),
            epoch=fields.number("epoch"),
            row=fields.number("row"),
            trimmed=fields.number("trimmed"),
            time=fields.number("time"),
            entries=fields.number("entries"),
            last=fields.raw("last").decode(errors="backslashreplace"),
            safe=fields.number("safe") if b"safe" in found else None,
            part=fields.number("part") if b"part" in found else 0,
        )
        if progress.trimmed > progress.epoch:
            expected = f"at most the epoch, {progress.epoch}"
            raise damaged(keys, key, "trimmed", fields.raw("trimmed"), expected)
        return progress


@dataclass(frozen=True)
class Partition:
    """Progress and journal of a partition, as they were at one moment.

    :arg keys: Of the flow.
    :arg number: Of the partition.
    :arg generation: Its number.
    :arg fields: What progress holds; nothing where it is missing.
    :arg has_journal: Whether there is a journal.
    :arg held: How many entries the journal holds.
    :arg newest: ID of the newest of them, empty where there is none.
    """

    keys: FlowKeys
    number: int
    generation: int
    fields: Mapping[bytes, bytes]
    has_journal: bool
    held: int
    newest: str

    def require_whole(self, incarnation: str) -> Progress:
        """Check that the journal holds all that was put into it.

        :arg incarnation: The flow's life.
        :returns: Progress.
        :raises StateLostError: If anything is missing, damaged, or of another life of the flow.
        """
        key = self.keys.progress(self.number, self.generation)
        journal = f"the journal {self.keys.journal(self.number, self.generation).decode()!r}"
        if not self.has_journal and not self.fields:
            raise self._lost(f"{journal} and the progress {key.decode()!r} are missing")
        progress = Progress.parse(self.keys, key, self.fields, incarnation)
        must = f"must hold {progress.entries}"
        if not self.has_journal:
            raise self._lost(f"{journal} is missing, which {must} entries")
        if self.held != progress.entries:
            raise self._lost(f"{journal} holds {self.held} entries and {must}")
        if self.held and self.newest != progress.last:
            raise self._lost(
                f"the newest entry of {journal} is {self.newest}, and must be {progress.last}"
            )
        return progress

    def _lost(self, what: str) -> StateLostError:
        return StateLostError(what, way_out(self.keys))
