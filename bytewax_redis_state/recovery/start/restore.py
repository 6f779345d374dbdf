"""Restore: the keyed state of a flow back into a fresh outbox, for the engine to load as its own.

Each cell becomes one row, which only says where the states of the cell wait in memory.

Invariant: what is restored is whole, or the start stops: each cell must stand at the manifest's
resume epoch and hold as many keys as it says, but for those that Redis dropped past their
deadlines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

import redis

from bytewax_redis_state.codec.envelope import are_sound, deadline_of, is_sound, open_envelope
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.shards.shard_names import shard_name
from bytewax_redis_state.errors import DecodeError, StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.cells import Cell, CellMark
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.state_scan import scan_states
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.recovery.start.expiry import read_marks
from bytewax_redis_state.server.client import server_time

__all__ = ["RestoredRow", "Restorer"]

RestoredRow = tuple[str, str, bytes]
"""``(engine step ID, engine state key, bytes)``."""


@dataclass
class Restorer:
    """Reads the state of some shards of a flow.

    :arg client: Where to read.
    :arg keys: Of the flow.
    :arg manifest: The generation to start from.
    :arg shards: Which shards this process restores: each is restored once in the cluster.
    :arg workers: Workers in the whole cluster.
    :arg engine_ids: Short step name to the ID under which the engine knows the step.
    :arg handover: Where the states of keyed steps wait for the engine.
    :arg progress: Gets keys read so far and keys in all.
    """

    client: redis.Redis
    keys: FlowKeys
    manifest: Manifest
    shards: frozenset[int]
    workers: int
    engine_ids: Mapping[str, str]
    handover: Handover
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        self._marks: dict[Cell, CellMark] = {}
        self._dated: dict[Cell, Counter[int]] = {}
        self.expired: dict[Cell, dict[int, int]] = {}
        self._cells: dict[Cell, dict[str, bytes]] = {
            Cell(step, shard): {} for step in self.manifest.steps for shard in self.shards
        }
        self._prefixes = {
            self.keys.state_prefix(cell.step, cell.shard): cell for cell in self._cells
        }

    def read(self) -> dict[str, int]:
        """Read everything, and check that it is whole; ``expired`` says then what has expired.

        :returns: Short step name to number of state keys.
        :raises StateLostError: If a cell is gone, of another generation, or lacks keys.
        :raises DecodeError: If a value fails its check; names the key.
        """
        self._marks = read_marks(self.client, self.keys, self.manifest, self.shards)
        self._require_places(self._marks)
        self._dated = {
            cell: Counter() for cell, mark in self._marks.items() if mark.slack is not None
        }
        total = sum(mark.count for mark in self._marks.values())
        self._read_keys(total)  # also where the cells count none: there may be keys all the same
        # Once more: if Redis has lost its tail meanwhile, so have the keys.
        self._require_places(read_marks(self.client, self.keys, self.manifest, self.shards))
        now = server_time(self.client)
        per_step: dict[str, int] = dict.fromkeys(self.manifest.steps, 0)
        for cell, mark in self._marks.items():
            gone = self._gone(cell, mark, now)
            if gone:
                self.expired[cell] = gone
            per_step[cell.step] += len(self._cells[cell])
        return per_step

    def _require_places(self, marks: Mapping[Cell, CellMark]) -> None:
        for cell, mark in marks.items():
            self._require_place(cell, mark)

    def _require_place(self, cell: Cell, mark: CellMark) -> None:
        manifest = self.manifest
        if (mark.token, mark.epoch) != (manifest.token, manifest.resume_epoch - 1):
            raise StateLostError(
                f"shard {cell.shard} of step {cell.step!r} does not stand at generation "
                f"{manifest.generation}, epoch {manifest.resume_epoch - 1}",
                "another start overtook this one, or Redis lost writes; start again",
            )

    def _gone(self, cell: Cell, mark: CellMark, now: int) -> dict[int, int]:
        """Give what has expired, by deadline; anything else that is missing is an error."""
        found = len(self._cells[cell])
        dated = self._dated.get(cell, Counter())
        may_be_gone = mark.expired(now)
        gone = {
            deadline: count - dated[deadline]
            for deadline, count in may_be_gone.items()
            if count > dated[deadline]
        }
        right = all(
            mark.dated.get(deadline, 0) - dated[deadline] == gone.get(deadline, 0)
            for deadline in {*mark.dated, *dated}
        )
        if not right or mark.count - found != sum(gone.values()):
            raise StateLostError(
                f"shard {cell.shard} of step {cell.step!r} has {found} keys in Redis, "
                f"{mark.count} were written and {sum(gone.values())} have expired: Redis lost or "
                "evicted keys",
                way_out(self.keys),
            )
        return gone

    def overdue(self) -> Iterator[tuple[Cell, Mapping[str, bytes]]]:
        """Give the cells whose keys would expire too soon, for the flow has stood still since.

        :returns: Each cell and all its states.
        """
        manifest = self.manifest
        for cell, dated in self._dated.items():
            slack = self._marks[cell].slack
            if dated and slack is not None and manifest.offset - slack > manifest.allowance // 2:
                yield cell, self._cells[cell]

    def _read_keys(self, total: int) -> None:
        done = 0
        for page in scan_states(self.client, self.keys, self._prefixes):
            for prefix, keys, values in page:
                self._take(prefix, keys, values)
                done += len(keys)
            if total:
                self.progress(min(done, total), total)

    def _take(self, prefix: bytes, keys: list[bytes], values: list[bytes | None]) -> None:
        """Take the values in, and find a damaged one here: the engine would panic on it."""
        cut = len(prefix)
        state_keys = [key[cut:] for key in keys]
        found = cast("list[bytes]", values)
        if None in values:  # gone since the SCAN: the count will tell
            there = [(k, v) for k, v in zip(state_keys, values, strict=True) if v is not None]
            state_keys, found = [k for k, _ in there], [v for _, v in there]
        if not are_sound(state_keys, found):
            for state_key, value in zip(state_keys, found, strict=True):
                if not is_sound(state_key, value):
                    self._refuse(prefix + state_key, state_key.decode(), value)
        names = [state_key.decode() for state_key in state_keys]
        cell = self._prefixes[prefix]
        states, dated = self._cells[cell], self._dated.get(cell)
        if dated is not None:
            # SCAN may give a key twice.
            new = dict(zip(names, found, strict=True))
            deadlines = [deadline_of(new[name]) for name in new.keys() - states.keys()]
            dated.update(deadline for deadline in deadlines if deadline is not None)
        states.update(zip(names, found, strict=True))

    @staticmethod
    def _refuse(key: bytes, state_key: str, value: bytes) -> NoReturn:
        where = f"Redis key {key.decode()!r}"
        try:
            open_envelope(state_key, value)
        except DecodeError as error:
            raise DecodeError(f"{where}: {error.message}", error.hint) from None
        raise DecodeError(f"{where} fails its check sum", "restore it from a backup")

    @property
    def cells(self) -> Mapping[Cell, dict[str, bytes]]:
        """The states that were read, for the engine to load; values may be replaced in it."""
        return self._cells

    def rows(self) -> Iterator[RestoredRow]:
        """Give the rows that the engine will load, and let go of each cell on the way."""
        for cell in list(self._cells):
            states = self._cells.pop(cell)
            if not states:
                continue
            engine_id = self.engine_ids[cell.step]
            if self.manifest.steps[cell.step].kind == "keyed":
                yield engine_id, shard_name(cell.shard, self.workers), self.handover.put(states)
            else:
                for part, state in states.items():
                    yield engine_id, part, state
