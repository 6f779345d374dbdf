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
from bytewax_redis_state.recovery.records.token import Token

__all__ = ["LOST_HINT", "Cell", "CellMark", "cells_of"]

LOST_HINT = "Redis lost acknowledged writes; restore it from a backup"
"""What to do where something that was written is not there."""


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
        return cls(step.decode(), int(shard))


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
    def parse(cls, cell: Cell, fields: Mapping[bytes, bytes], incarnation: str) -> CellMark:
        """Read the fields of a cell.

        :raises StateLostError: If it is missing, damaged or of another life of the flow.
        """
        if fields.get(b"incarnation") != incarnation.encode():
            state = "of another life of the flow" if fields else "missing"
            raise StateLostError(f"shard {cell.shard} of step {cell.step!r} is {state}", LOST_HINT)
        try:
            numbered = {k.decode(): int(v) for k, v in fields.items() if k[-1:].isdigit()}
            return cls(
                token=Token.parse(fields[b"generation"]),
                epoch=int(fields[b"epoch"]),
                ahead={int(k[1:]): v for k, v in numbered.items() if k.startswith("p")},
                marks={int(k[4:]): v for k, v in numbered.items() if k.startswith("mark")},
                count=int(fields[b"count"]),
                dated={int(k[1:]): v for k, v in numbered.items() if k.startswith("d")},
                slack=int(fields[b"slack"]) if b"slack" in fields else None,
            )
        except KeyError as missing:
            raise StateLostError(
                f"shard {cell.shard} of step {cell.step!r} lacks the field "
                f"{missing.args[0].decode()!r}",
                LOST_HINT,
            ) from None
        except ValueError as error:
            raise StateLostError(
                f"shard {cell.shard} of step {cell.step!r} is damaged: {error}", LOST_HINT
            ) from None

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


def cells_of(steps: Iterable[str], shards: int) -> list[Cell]:
    """List every cell of a flow."""
    return [Cell(step, shard) for step in steps for shard in range(shards)]
