"""A sum over numbers that a file gives, and a second source that can hold the epoch open.

ONE_ITEM_NUMBERS names a file with one number a line; the source emits a line as soon as it is
complete, and remembers how many it has emitted. While the file ONE_ITEM_HOLD exists, the second
source keeps the epoch of its start from closing. The flow ends when the file ONE_ITEM_END exists.
"""

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

NUMBERS = Path(os.environ["ONE_ITEM_NUMBERS"])
HOLD = Path(os.environ["ONE_ITEM_HOLD"])
END = Path(os.environ["ONE_ITEM_END"])


def soon() -> datetime:
    return datetime.now(timezone.utc) + timedelta(milliseconds=10)


class LinesPartition(StatefulSourcePartition[tuple[str, int], int]):
    """The file's lines; ends while the epoch is held, so that its rows are written."""

    def __init__(self, done: int):
        self._done = done

    def next_batch(self) -> list[tuple[str, int]]:
        lines = NUMBERS.read_text().splitlines()[self._done :]
        self._done += len(lines)
        if not lines and (END.exists() or HOLD.exists()):
            raise StopIteration
        return [("sum", int(line)) for line in lines]

    def next_awake(self) -> datetime:
        return soon()

    def snapshot(self) -> int:
        return self._done


class HeldPartition(StatefulSourcePartition[tuple[str, int], None]):
    """Emits nothing; asks to be woken in an hour while the epoch is to be held."""

    def next_batch(self) -> list[tuple[str, int]]:
        if END.exists():
            raise StopIteration
        return []

    def next_awake(self) -> datetime:
        return soon() + timedelta(hours=HOLD.exists())

    def snapshot(self) -> None:
        return None


class LinesSource(FixedPartitionedSource[tuple[str, int], int]):
    def list_parts(self) -> list[str]:
        return ["lines"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> LinesPartition:
        return LinesPartition(resume_state or 0)


class HeldSource(FixedPartitionedSource[tuple[str, int], None]):
    def list_parts(self) -> list[str]:
        return ["held"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> HeldPartition:
        return HeldPartition()


def add_up(total: int | None, number: int) -> tuple[int, int]:
    total = (total or 0) + number
    return total, total


flow = Dataflow("one_item")
numbers = op.input("numbers", flow, LinesSource())
totals = op.stateful_map("sum", numbers, add_up)
op.output("out", op.map("text", totals, lambda t: str(t[1])), StdOutSink())
held = op.input("held", flow, HeldSource())
op.output("held_out", op.map("held_text", held, str), StdOutSink())
