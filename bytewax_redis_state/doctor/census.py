"""The census: all states of a flow, counted by cell and deadline, each value looked at.

A flow may run meanwhile: what differs from its cell's counts is read again before it is called
wrong. Invariant: it reads only, and no value is built.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import redis

from bytewax_redis_state.codec.envelope import deadline_of
from bytewax_redis_state.doctor.findings import Findings
from bytewax_redis_state.doctor.key_usage import KeyUsage
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import LOST_HINT, Cell, CellMark
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.server.client import server_time

__all__ = ["Census", "cell_fields"]

_SCAN_COUNT = 10_000
_TRIES = 5


def cell_fields(
    client: redis.Redis, keys: FlowKeys, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, dict[bytes, bytes]]]:
    """Read cells.

    :arg client: Of the Redis that holds the flow.
    :arg keys: Of the flow.
    :arg cells: Which.
    :returns: Each with its fields, none where it is missing.
    """
    with client.pipeline(transaction=False) as pipe:
        for cell in cells:
            pipe.hgetall(keys.applied(cell.step, cell.shard))
        yield from zip(cells, pipe.execute(), strict=True)


class Census:
    """Count and check the states of a flow.

    :arg client: Of the Redis that holds the flow; it is only read.
    :arg keys: Of the flow.
    :arg manifest: Of the flow.
    :arg seals: Looks at the values.
    :arg findings: Gets what is wrong.
    :arg progress: Gets how many state keys were read, of how many.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: FlowKeys,
        manifest: Manifest,
        seals: KeyUsage,
        findings: Findings,
        progress: Callable[[int, int], None],
    ) -> None:
        self._client = client
        self._keys = keys
        self._manifest = manifest
        self._seals = seals
        self._findings = findings
        self._say = findings.say
        self._progress = progress

    def take(self, marks: Mapping[Cell, CellMark]) -> dict[str, int]:
        """Count and check all states; again where a fold may have come between.

        :arg marks: What the cells say.
        :returns: Short step name to number of state keys.
        """
        doubtful = dict(marks)
        counted = dict.fromkeys(self._manifest.steps, 0)
        for attempt in range(_TRIES):
            seen = self._read(first=attempt == 0)
            if attempt == 0:
                for cell, dated in seen.items():
                    if cell.step in counted:
                        counted[cell.step] += dated.total()
            doubtful = self._doubtful(doubtful, seen, last=attempt == _TRIES - 1)
            if not doubtful:
                break
        return counted

    def _doubtful(
        self,
        before: Mapping[Cell, CellMark],
        seen: Mapping[Cell, Counter[int | None]],
        *,
        last: bool,
    ) -> dict[Cell, CellMark]:
        """Compare counts, and give the cells that changed while they were read."""
        now = server_time(self._client)
        wrong = {
            cell: mark
            for cell, mark in before.items()
            if self._difference(mark, seen.get(cell, Counter()), now) is not None
        }
        again: dict[Cell, CellMark] = {}
        for cell, fields in cell_fields(self._client, self._keys, list(wrong)):
            try:
                mark = CellMark.parse(cell, fields, self._manifest.incarnation)
            except StateLostError:  # it was there a moment ago: the flow is being emptied
                mark = wrong[cell]
            if mark != wrong[cell] and not last:
                again[cell] = mark
                continue
            difference = self._difference(wrong[cell], seen.get(cell, Counter()), now)
            if mark != wrong[cell]:
                self._say(
                    "note",
                    f"shard {cell.shard} of step {cell.step!r} changed each time it was read",
                    "verify again when the flow is less busy",
                    kind="cells that kept changing",
                )
            else:
                self._say(
                    "error",
                    f"shard {cell.shard} of step {cell.step!r} {difference}",
                    LOST_HINT,
                    kind="counts that differ",
                )
        return again

    def _difference(self, mark: CellMark, seen: Counter[int | None], now: int) -> str | None:
        expired = mark.expired(now)
        gone = {d: n - seen[d] for d, n in expired.items() if n > seen[d]}
        missing = mark.count - seen.total() - sum(gone.values())
        if missing:
            return f"has {seen.total():,} keys, its count says {mark.count:,}"
        if mark.slack is not None:
            for deadline in {*mark.dated, *(d for d in seen if d is not None)}:
                if mark.dated.get(deadline, 0) != seen[deadline] + gone.get(deadline, 0):
                    return "has other deadlines than it has counted"
        return None

    def _read(self, *, first: bool) -> dict[Cell, Counter[int | None]]:
        seen: dict[Cell, Counter[int | None]] = defaultdict(Counter)
        known: set[bytes] = set()  # SCAN may give a key twice
        cursor, total = 0, self._client.dbsize()
        while True:
            cursor, page = cast(
                "tuple[int, list[bytes]]",
                self._client.scan(cursor, match=self._keys.state_pattern, count=_SCAN_COUNT),
            )
            groups: dict[bytes, list[bytes]] = defaultdict(list)
            for key in set(page) - known:
                groups[self._keys.cell_prefix(key)].append(key)
            known.update(page)
            with self._client.pipeline(transaction=False) as pipe:
                for group in groups.values():
                    pipe.mget(group)
                answers = pipe.execute()
            for group, values in zip(groups.values(), answers, strict=True):
                for key, value in zip(group, values, strict=True):
                    if value is not None:
                        self._look_at(key, value, seen, first=first)
            if first:
                self._progress(min(len(known), total), total)
            if not cursor:
                return seen

    def _look_at(
        self,
        key: bytes,
        value: bytes,
        seen: dict[Cell, Counter[int | None]],
        *,
        first: bool,
    ) -> None:
        place = self._keys.parse_state(key)
        if place is None:
            if first:
                self._say("error", f"the key {key!r} is no state key", "delete it if it is foreign")
            return
        step, shard, state_key = place
        seen[Cell(step, shard)][deadline_of(value)] += 1
        if not first:
            return
        if step not in self._manifest.steps:
            self._say(
                "warning",
                f"the key {key.decode()!r} is of a step that the manifest does not have",
                "nobody reads it: delete it",
                kind="keys of unknown steps",
            )
        elif shard != shard_of(state_key, self._manifest.shards):
            self._say(
                "error",
                f"the key {key.decode()!r} is in the wrong shard",
                LOST_HINT,
                kind="keys in the wrong shard",
            )
        fault = self._seals.fault(step, state_key, value)
        if fault is not None:
            self._findings.damaged(f"the value of {key.decode()!r}", fault)
