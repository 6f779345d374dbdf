"""Expiry: what Redis has dropped by itself, and when it may drop the rest.

A key with a deadline expires in Redis at that deadline plus the flow's downtime plus the downtime
allowance. While the flow runs, the flow itself drops the key long before; so only a flow that
stood still for longer than the allowance finds keys gone. Longer downtimes move all expiries on.

Invariant: a missing key counts as expired only if its deadline, with all that was added, has
passed on Redis's clock; counts of keys and of deadlines are set right in one script.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TypeVar

import redis

from bytewax_redis_state.codec.envelope import DEADLINE_WITHIN, deadline_of
from bytewax_redis_state.errors import StateExpiredError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.cells import Cell, CellMark, cells_of
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.state_scan import scan_states
from bytewax_redis_state.server.client import server_time

__all__ = [
    "count_out_expired",
    "expired_in_words",
    "expired_keys",
    "extend_expiries",
    "read_marks",
    "refuse_expired",
]

_RENEW_KEYS = 1000
_PIPELINE = 16
_Item = TypeVar("_Item")


def read_marks(
    client: redis.Redis, keys: FlowKeys, manifest: Manifest, shards: frozenset[int] | None = None
) -> dict[Cell, CellMark]:
    """Read what cells say of themselves.

    :arg shards: Of which shards; ``None`` for all.
    :raises StateLostError: If one is missing or of another life.
    """
    cells = [
        cell
        for cell in cells_of(manifest.steps, manifest.shards)
        if shards is None or cell.shard in shards
    ]
    with client.pipeline(transaction=False) as pipe:
        for cell in cells:
            pipe.hgetall(keys.applied(cell.step, cell.shard))
        answers: list[dict[bytes, bytes]] = pipe.execute()
    return {
        cell: CellMark.parse(keys, cell, fields, manifest.incarnation)
        for cell, fields in zip(cells, answers, strict=True)
    }


def expired_keys(client: redis.Redis, keys: FlowKeys, manifest: Manifest) -> dict[str, int]:
    """Count the keys that Redis has dropped past their deadlines; writes nothing.

    Keys are looked at only where some may have gone. A key that the journal is about to write or
    to delete again counts, too.

    :returns: Short step name to number, where there are any.
    :raises StateLostError: If a cell is missing or of another life.
    """
    now = server_time(client)
    marks = read_marks(client, keys, manifest)
    due = {cell: past for cell, mark in marks.items() if (past := mark.expired(now))}
    if not due:
        return {}
    prefixes = {keys.state_prefix(cell.step, cell.shard): cell for cell in due}
    present: dict[Cell, Counter[int | None]] = defaultdict(Counter)
    seen: set[bytes] = set()
    for page in scan_states(client, keys, prefixes, head=DEADLINE_WITHIN):
        for prefix, names, heads in page:
            for name, head in zip(names, heads, strict=True):
                if head is not None and name not in seen:
                    present[prefixes[prefix]][deadline_of(head)] += 1
            seen.update(names)
    gone: Counter[str] = Counter()
    for cell, past in due.items():
        missing = sum(max(0, n - present[cell][deadline]) for deadline, n in past.items())
        if missing:
            gone[cell.step] += missing
    return dict(gone)


def expired_in_words(gone: Mapping[str, int]) -> str:
    """Say how many keys had gone, step by step."""
    return ", ".join(
        f"{count:,} {'key' if count == 1 else 'keys'} of step {step!r}"
        for step, count in sorted(gone.items())
    )


def refuse_expired(gone: Mapping[str, int]) -> None:
    """Stop a start that shall not go on without what has gone.

    :raises StateExpiredError: If anything has.
    """
    if any(gone.values()):
        raise StateExpiredError(
            f"Redis dropped {expired_in_words(gone)}: the flow stood still for longer than the "
            "downtime allowance after their deadline",
            "go on without them with --on-expired=continue, or restore Redis from a backup",
        )


def count_out_expired(
    store: FencedStore,
    offset: int,
    gone: Mapping[Cell, Mapping[int, int]],
    extended: frozenset[Cell] = frozenset(),
) -> None:
    """Take expired keys out of their cells' counts, and note the cells with new expiries.

    :arg offset: Of the manifest.
    :arg gone: Cell to deadline to number of keys that Redis has dropped.
    :arg extended: Cells of which every expiry stands at its deadline plus the offset.
    :raises FencedError: If another start overtook this one.
    """
    cells = sorted({*gone, *extended}, key=lambda cell: (cell.step, cell.shard))
    with store.client.pipeline(transaction=False) as pipe:
        for cell in cells:
            store.scripts.settle_deadlines(
                store.keys.applied(cell.step, cell.shard),
                store.incarnation,
                store.generation,
                offset if cell in extended else None,
                gone.get(cell, {}),
                pipe,
            )
        store.require_own(pipe.execute())


def extend_expiries(
    store: FencedStore,
    offset: int,
    cell: Cell,
    states: Mapping[str, bytes],
) -> None:
    """Set the expiries of a cell's keys to their deadlines plus the manifest's offset.

    :arg offset: Of the manifest.
    :arg states: State key to envelope, all of the cell.
    :raises FencedError: If another start overtook this one.
    """
    prefix = store.keys.state_prefix(cell.step, cell.shard)
    expiries = (
        (prefix + key.encode(), deadline + offset)
        for key, data in states.items()
        if (deadline := deadline_of(data)) is not None
    )
    for chunks in _batches(_batches(expiries, _RENEW_KEYS), _PIPELINE):
        with store.client.pipeline(transaction=False) as pipe:
            for chunk in chunks:
                names, times = zip(*chunk, strict=True)
                store.scripts.renew_keys(
                    store.keys.applied(cell.step, cell.shard),
                    names,
                    store.incarnation,
                    store.generation,
                    times,
                    pipe,
                )
            store.require_own(pipe.execute())


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while batch := list(islice(items, size)):
        yield batch
