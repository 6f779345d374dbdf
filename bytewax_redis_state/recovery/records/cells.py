"""Cells: what Redis says of each (step, shard) beside its keys, the hash ``applied``.

=============  ====================================================================================
field          holds
=============  ====================================================================================
incarnation    the flow's life
generation     who may write to the cell: the fencing token, ``<number>-<start ID>``
epoch          applied by the cell as a whole
p<i>           applied of partition i, where that is more
mark<i>        the epoch that an unfinished fold of partition i goes to
count          live state keys
d<deadline>    those of them that have this deadline, in milliseconds of the flow's time
slack          the least that any key's expiry in Redis added to its deadline, in milliseconds
=============  ====================================================================================

Invariant: absence is an error; a key may be missing only where it has a deadline and Redis's clock
has passed it by the slack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.fields import Fields, whole_number
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["Cell", "CellMark", "cells_of"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One (step, shard)."""

    step: str
    shard: int

    def to_bytes(self) -> bytes:
        """Give the form that the journal holds."""
        return b"%d:%b" % (self.shard, self.step.encode())

    @classmethod
    def from_bytes(cls, data: bytes) -> Cell:
        """Read the form that the journal holds."""
        shard, _, step = data.partition(b":")
        return cls(step.decode(), whole_number(shard))


@dataclass(frozen=True)
class CellMark:
    """What a cell says of itself.

    :arg token: Who may write to it.
    :arg epoch: Applied by the cell as a whole.
    :arg ahead: Partition to the epoch applied of it, where that is more than ``epoch``.
    :arg marks: Partition to the epoch that an unfinished fold goes to.
    :arg count: Live state keys.
    :arg dated: Deadline to number of live state keys that have it.
    :arg slack: What each of their expiries adds to the deadline at least; ``None`` where the cell
        has never held a deadline.
    """

    token: Token
    epoch: int
    ahead: Mapping[int, int]
    marks: Mapping[int, int]
    count: int
    dated: Mapping[int, int] = field(default_factory=dict)
    slack: int | None = None

    @classmethod
    def parse(
        cls, keys: FlowKeys, cell: Cell, found: Mapping[bytes, bytes], incarnation: str
    ) -> CellMark:
        """Read the fields of a cell.

        :arg keys: Of the flow.
        :arg found: As HGETALL gives them.
        :arg incarnation: The flow's life.
        :raises StateLostError: If it is missing, damaged or of another life of the flow.
        """
        if found.get(b"incarnation") != incarnation.encode():
            state = "of another life of the flow" if found else "missing"
            raise StateLostError(
                f"shard {cell.shard} of step {cell.step!r} is {state}", way_out(keys)
            )
        fields = Fields(keys, keys.applied(cell.step, cell.shard), found)
        return cls(
            token=fields.token("generation"),
            epoch=fields.number("epoch"),
            ahead=_numbered(fields, "p"),
            marks=_numbered(fields, "mark"),
            count=fields.number("count"),
            dated=_numbered(fields, "d"),
            slack=fields.number("slack", signed=True) if b"slack" in found else None,
        )

    def applied(self, partition: int) -> int:
        """Give the epoch up to which a partition is applied."""
        return max(self.epoch, self.ahead.get(partition, 0))

    @property
    def highest(self) -> int:
        """The highest epoch of which the cell may hold anything."""
        return max(self.epoch, *self.ahead.values(), *self.marks.values(), 0)

    def expired(self, now: int) -> dict[int, int]:
        """Give what Redis may have dropped: deadline to number of keys.

        :arg now: Redis's time, in milliseconds since 1970.
        """
        if self.slack is None:
            return {}
        return {d: n for d, n in self.dated.items() if d + self.slack <= now}


def _numbered(fields: Fields, stem: str) -> dict[int, int]:
    """Read the fields whose names are a stem and a number."""
    names = [name.decode(errors="replace") for name in fields.found]
    return {
        int(name[len(stem) :]): fields.number(name)
        for name in names
        if name.startswith(stem) and _is_number(name[len(stem) :])
    }


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def cells_of(steps: Iterable[str], shards: int) -> list[Cell]:
    """List every cell of a flow."""
    return [Cell(step, shard) for step in steps for shard in range(shards)]
