"""The scan: all keyed state of a flow, page by page, grouped by cell.

One SCAN serves all cells; what it finds is read with one MGET for each cell, since a cell's keys
share a hash tag. Redis works on the next page while the caller takes the last one in.

Invariant: every key that is there from the beginning of the scan to its end is given. A key may be
given twice, as SCAN may, and a key that was deleted after it was found has no value.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import redis

from bytewax_redis_state.keys import FlowKeys

__all__ = ["CellStates", "scan_keys", "scan_states", "scan_values"]

_SCAN_COUNT = 20_000
_FIRST_COUNT = 1_000  # until the size of a value is known
_GROWTH = 20
_PAGE_BYTES = 64 * 1024 * 1024  # of values, about
_AFTER_COLON = b";"  # in the order of bytes

_Page = list[tuple[bytes, list[bytes]]]  # prefix of a cell, and keys of it


class CellStates(NamedTuple):
    """States of one cell, as one page of the scan has found them.

    :arg prefix: Of the cell's keys; empty where the pattern has found another key.
    :arg keys: In the order of their bytes.
    :arg values: Of the keys; ``None`` where a key is gone since it was found.
    """

    prefix: bytes
    keys: list[bytes]
    values: list[bytes | None]


def scan_states(
    client: redis.Redis,
    keys: FlowKeys,
    cells: Container[bytes] | None = None,
    *,
    head: int | None = None,
) -> Iterator[list[CellStates]]:
    """Read the keyed state of a flow.

    :arg client: Of the Redis that holds the flow.
    :arg keys: Of the flow.
    :arg cells: Prefixes of the cells to read; ``None`` for all keys that look like states.
    :arg head: How many bytes of each value to read; ``None`` for the whole value.
    :returns: Pages.
    """
    # The prefix alone is compared in less time; but it finds the cells' own hashes, too.
    pattern = keys.state_pattern if cells is None else keys.shard_pattern

    count = _FIRST_COUNT

    def read(cursor: int) -> tuple[int, list[CellStates]]:
        nonlocal count
        cursor, page = _scan(client, keys, cursor, pattern, count)
        wanted = page if cells is None else [group for group in page if group[0] in cells]
        found = _read(client, wanted, head)
        size = sum(len(value or b"") for group in found for value in group.values)
        count = max(1, min(_SCAN_COUNT, count * _GROWTH, count * _PAGE_BYTES // (size or 1)))
        return cursor, found

    # One thread, one page ahead: with more, Redis would hold up others, and the pages memory.
    with ThreadPoolExecutor(1, "scan") as ahead:
        coming = ahead.submit(read, 0)
        while True:
            cursor, found = coming.result()
            if cursor:
                coming = ahead.submit(read, cursor)
            yield found
            if not cursor:
                return


def scan_values(client: redis.Redis, keys: FlowKeys) -> Iterator[tuple[str, str, bytes]]:
    """Read each state of a flow that stands still, once.

    :returns: Short step name, state key and value.
    """
    seen: set[bytes] = set()
    for page in scan_states(client, keys):
        for _, names, values in page:
            for name, value in zip(names, values, strict=True):
                place = keys.parse_state(name)
                if place is not None and value is not None and name not in seen:
                    seen.add(name)
                    yield place[0], place[2], value


def scan_keys(
    client: redis.Redis, keys: FlowKeys, cells: Container[bytes]
) -> Iterator[list[tuple[bytes, list[bytes]]]]:
    """Find the keyed state of some cells, without reading it.

    :arg cells: Prefixes of the cells.
    :returns: Pages of a cell's prefix and keys of it.
    """
    cursor = 0
    while True:
        cursor, page = _scan(client, keys, cursor, keys.shard_pattern)
        yield [group for group in page if group[0] in cells]
        if not cursor:
            return


def _scan(
    client: redis.Redis, keys: FlowKeys, cursor: int, pattern: bytes, count: int = _SCAN_COUNT
) -> tuple[int, _Page]:
    cursor, found = cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=count))
    return cursor, list(_by_cell(keys, found))


def _by_cell(keys: FlowKeys, found: list[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Group keys by cell: sorted, a cell's keys are a slice, found without a look at each key."""
    found.sort()
    start = 0
    while start < len(found):
        prefix = keys.cell_prefix(found[start])
        end = bisect_left(found, prefix[:-1] + _AFTER_COLON, start) if prefix else start + 1
        yield prefix, found[start:end]
        start = end


def _read(client: redis.Redis, page: _Page, head: int | None) -> list[CellStates]:
    with client.pipeline(transaction=False) as pipe:
        for _, names in page:
            if head is None:
                pipe.mget(names)
                continue
            for name in names:
                pipe.getrange(name, 0, head - 1)
        answers = pipe.execute()
    if head is None:
        return [
            CellStates(prefix, names, values)
            for (prefix, names), values in zip(page, answers, strict=True)
        ]
    heads = iter(answers)
    # GETRANGE gives an empty string for a key that is gone; an envelope is never empty.
    return [
        CellStates(prefix, names, [next(heads) or None for _ in names]) for prefix, names in page
    ]
