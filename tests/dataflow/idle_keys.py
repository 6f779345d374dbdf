"""A flow with busy keys and idle ones; a child of :mod:`.entry_points` builds it too."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink

from bytewax_redis_state import retain

BUSY, IDLE = ([f"{kind}{number}" for number in range(20)] for kind in ("busy", "idle"))
ROUNDS = 14
LIFETIME = timedelta(seconds=1)
PAUSE = timedelta(milliseconds=150)


class _Rounds(StatefulSourcePartition[Any, None]):
    """All keys in the first round and in the last, busy ones in all, a pause in between."""

    def __init__(self) -> None:
        self.round = 0
        self.awake = datetime.now(timezone.utc)

    def next_batch(self) -> Iterable[Any]:
        if self.round == ROUNDS:
            raise StopIteration
        keys = BUSY + IDLE if self.round in (0, ROUNDS - 1) else BUSY
        self.round += 1
        self.awake = datetime.now(timezone.utc) + PAUSE
        return [(key, 1) for key in keys]

    def next_awake(self) -> datetime | None:
        return self.awake

    def snapshot(self) -> None:
        return None


class _Source(FixedPartitionedSource[Any, None]):
    def list_parts(self) -> list[str]:
        return ["rounds"]

    def build_part(self, *_what: Any) -> _Rounds:
        return _Rounds()


def counting(record: list[Any]) -> Dataflow:
    """Count the items of each key; idle keys come once more after their lifetime is over."""
    flow = Dataflow("counting")
    items = op.input("items", flow, _Source())
    counts = op.stateful_map("count", items, lambda state, one: ((state or 0) + one,) * 2)
    op.output("out", retain(counts, LIFETIME), TestingSink(record))
    return flow
