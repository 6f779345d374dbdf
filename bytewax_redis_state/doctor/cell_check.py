"""The check of the cells: each cell's ``applied`` hash, compared with the journals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import redis

from bytewax_redis_state.doctor.checked_flow import CheckedFlow, Writers
from bytewax_redis_state.doctor.journal_check import JournalRange
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.cells import Cell, CellMark, cells_of
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["cell_fields", "check_cells"]


def cell_fields(
    client: redis.Redis, keys: FlowKeys, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, dict[bytes, bytes]]]:
    """Read the ``applied`` hashes of cells.

    :arg client: Connected to the Redis that holds the flow.
    :arg keys: Build the keys of the flow.
    :arg cells: The cells to read.
    :returns: Each cell with the fields of its hash; no fields where the hash is missing.
    """
    with client.pipeline(transaction=False) as pipe:
        for cell in cells:
            pipe.hgetall(keys.applied(cell.step, cell.shard))
        yield from zip(cells, pipe.execute(), strict=True)


def check_cells(
    flow: CheckedFlow, journals: Mapping[int, JournalRange | None], writers: Writers
) -> dict[Cell, CellMark]:
    """Check every cell that the manifest names.

    :arg flow: The flow.
    :arg journals: Partition to the epochs that its journal holds.
    :arg writers: The processes that may write meanwhile.
    :returns: The cells that could be read, with what their hashes say.
    """
    marks: dict[Cell, CellMark] = {}
    cells = cells_of(flow.manifest.steps, flow.manifest.shards)
    for cell, fields in cell_fields(flow.client, flow.keys, cells):
        try:
            mark = CellMark.parse(flow.keys, cell, fields, flow.manifest.incarnation)
        except StateLostError as error:
            flow.findings.say("error", error.message, error.hint, kind="missing or damaged cells")
            continue
        marks[cell] = mark
        _check_cell(flow, cell, mark, journals, writers)
    return marks


def _check_cell(
    flow: CheckedFlow,
    cell: Cell,
    mark: CellMark,
    journals: Mapping[int, JournalRange | None],
    writers: Writers,
) -> None:
    name = f"shard {cell.shard} of step {cell.step!r}"
    if not writers.starting:  # a start fences the cells one after the other
        if mark.token != flow.manifest.token:
            flow.findings.say(
                "error",
                f"{name} is of {flow.difference(mark.token)}",
                way_out(flow.keys),
                kind="cells of another start",
            )
            return
        for partition, journal in journals.items():
            if journal is not None:
                _compare(flow, name, mark.applied(partition), partition, journal, writers)
    if mark.marks and not writers.leased:
        flow.findings.say(
            "warning",
            f"a fold of {name} stopped midway",
            "nothing to do: the next start of the flow finishes the fold",
            kind="unfinished folds",
        )


def _compare(
    flow: CheckedFlow,
    name: str,
    applied: int,
    partition: int,
    journal: JournalRange,
    writers: Writers,
) -> None:
    # The cell is read after the journal. A fold in between may have applied epochs that were
    # committed since, so only a flow without a lease can be ahead of its journal.
    ahead = applied >= journal.end and not writers.leased
    if applied < journal.begin - 1 or ahead:
        flow.findings.say(
            "error",
            f"{name} has applied epoch {applied} of partition {partition}, whose journal begins at "
            f"epoch {journal.begin} and ends before epoch {journal.end}",
            way_out(flow.keys),
            kind="cells that do not fit their journals",
        )
