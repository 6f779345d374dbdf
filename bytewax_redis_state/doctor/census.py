"""The census: all states of a flow, read and compared with what their cells have counted.

Invariant: it only reads, and decodes no value. A flow may run meanwhile, so a cell whose counts
differ is counted again if its hash has changed since.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from bytewax_redis_state.codec.envelope import deadline_of
from bytewax_redis_state.doctor.cell_check import cell_fields
from bytewax_redis_state.doctor.checked_flow import CheckedFlow
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.records.cells import Cell, CellMark
from bytewax_redis_state.recovery.records.state_scan import scan_states
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.server.client import server_time

__all__ = ["Census"]

_TRIES = 5

_Counted = Mapping[Cell, Counter[int | None]]
"""Cell to its states by deadline; ``None`` stands for states without one."""


class Census:
    """Count the states of a flow, and check each of them.

    :arg flow: The flow.
    :arg usage: Checks the values.
    :arg progress: Gets the number of state keys that were read, and how many there are.
    """

    def __init__(
        self, flow: CheckedFlow, usage: KeyUsage, progress: Callable[[int, int], None]
    ) -> None:
        self._flow = flow
        self._usage = usage
        self._say = flow.findings.say
        self._progress = progress

    def take(self, marks: Mapping[Cell, CellMark]) -> dict[str, int]:
        """Read all states; read them again where a fold may have come in between.

        :arg marks: Cell to what its hash said before the states were read.
        :returns: Short step name to number of state keys.
        """
        counted = self._count(first=True)
        totals = dict.fromkeys(self._flow.manifest.steps, 0)
        for cell, states in counted.items():
            if cell.step in totals:
                totals[cell.step] += states.total()
        changed = self._compare(marks, counted, last=False)
        for attempt in range(2, _TRIES + 1):
            if not changed:
                break
            counted = self._count(first=False)
            changed = self._compare(changed, counted, last=attempt == _TRIES)
        return totals

    # -- comparing ----------------------------------------------------------------------------

    def _compare(
        self, marks: Mapping[Cell, CellMark], counted: _Counted, *, last: bool
    ) -> dict[Cell, CellMark]:
        """Compare the states with the cells' counts, and report the cells that differ.

        :returns: Cells that differ, but have changed since ``marks`` were read; none on the last
            try.
        """
        now = server_time(self._flow.client)
        differing = {
            cell: mark
            for cell, mark in marks.items()
            if _difference(mark, counted.get(cell, Counter()), now) is not None
        }
        changed: dict[Cell, CellMark] = {}
        cells = list(differing)
        for cell, fields in cell_fields(self._flow.client, self._flow.keys, cells):
            before = differing[cell]
            after = self._parse(cell, fields, before)
            if after == before:
                self._say_differs(cell, before, counted.get(cell, Counter()), now)
            elif last:
                self._say_kept_changing(cell)
            else:
                changed[cell] = after
        return changed

    def _parse(self, cell: Cell, fields: dict[bytes, bytes], before: CellMark) -> CellMark:
        try:
            return CellMark.parse(self._flow.keys, cell, fields, self._flow.manifest.incarnation)
        except StateLostError:
            # The cell was there a moment ago, so somebody deletes the flow right now. That the
            # counts differ is then the error to report.
            return before

    def _say_differs(
        self, cell: Cell, mark: CellMark, states: Counter[int | None], now: int
    ) -> None:
        difference = _difference(mark, states, now)
        self._say(
            "error",
            f"shard {cell.shard} of step {cell.step!r} {difference}",
            way_out(self._flow.keys),
            kind="shards whose counts differ",
        )

    def _say_kept_changing(self, cell: Cell) -> None:
        self._say(
            "note",
            f"shard {cell.shard} of step {cell.step!r} changed each of the {_TRIES} times that it "
            "was read",
            "verify again when the flow is less busy",
            kind="shards that kept changing",
        )

    # -- counting -----------------------------------------------------------------------------

    def _count(self, *, first: bool) -> _Counted:
        """Count all states; check each of them on the first count only."""
        counted: dict[Cell, Counter[int | None]] = defaultdict(Counter)
        for page in self._pages(first=first):
            for key, value in page:
                place = self._flow.keys.parse_state(key)
                if place is not None:
                    step, shard, state_key = place
                    counted[Cell(step, shard)][deadline_of(value)] += 1
                    if first:
                        self._check_state(key, step, shard, state_key, value)
                elif first:
                    self._say_no_state(key)
        return counted

    def _pages(self, *, first: bool) -> Iterator[list[tuple[bytes, bytes]]]:
        client, keys = self._flow.client, self._flow.keys
        known: set[bytes] = set()  # SCAN may give a key twice
        total = client.dbsize()
        for page in scan_states(client, keys):
            for _, names, values in page:
                yield [
                    (key, value)
                    for key, value in zip(names, values, strict=True)
                    if value is not None and key not in known
                ]
                known.update(names)
            if first:
                self._progress(min(len(known), total), total)

    def _say_no_state(self, key: bytes) -> None:
        self._say(
            "error",
            f"the key {key!r} looks like a state's key, but is none",
            "find out which program wrote it, and delete it",
            kind="keys that only look like states",
        )

    def _check_state(self, key: bytes, step: str, shard: int, state_key: str, value: bytes) -> None:
        if step not in self._flow.manifest.steps:
            self._say(
                "warning",
                f"the key {key.decode()!r} is of a step that the manifest does not list",
                "no process reads it: delete it",
                kind="keys of unknown steps",
            )
        elif shard != shard_of(state_key, self._flow.manifest.shards):
            self._say(
                "error",
                f"the key {key.decode()!r} is in the wrong shard",
                way_out(self._flow.keys),
                kind="keys in the wrong shard",
            )
        fault = self._usage.check(step, state_key, value)
        if fault is not None:
            self._flow.findings.say_damaged(f"the value of {key.decode()!r}", fault)


def _difference(mark: CellMark, states: Counter[int | None], now: int) -> str | None:
    """Say how a cell's states differ from its counts, apart from keys that Redis has expired."""
    expired = mark.expired(now)
    gone = {d: n - states[d] for d, n in expired.items() if n > states[d]}
    if mark.count != states.total() + sum(gone.values()):
        return f"has {states.total():,} keys, but its count says {mark.count:,}"
    if mark.slack is None:  # the cell has never held a deadline, so it counts none
        return None
    for deadline in {*mark.dated, *(d for d in states if d is not None)}:
        if mark.dated.get(deadline, 0) != states[deadline] + gone.get(deadline, 0):
            return "has keys with other deadlines than it has counted"
    return None
