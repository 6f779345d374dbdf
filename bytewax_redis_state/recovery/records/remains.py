"""Remains: keys of a flow in a Redis that does not know the flow any longer.

Invariant: a flow is founded, or founded again, only where nothing of it is left. Leases don't
count: who holds one writes it again, and it expires by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import redis

from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.token import Token

__all__ = ["foreign_remains", "remains"]

_BATCH = 1000


def remains(client: redis.Redis, keys: FlowKeys) -> Iterator[bytes]:
    """Find the keys of a flow on every node, leases aside.

    :arg client: Of the Redis that may hold them.
    :arg keys: Of the flow.
    :returns: Keys; SCAN may give one twice.
    """
    leases = keys.lease(0)[:-1]
    for key in client.scan_iter(match=keys.pattern, count=10_000):
        if not key.startswith(leases):
            yield key


def foreign_remains(client: redis.Redis, keys: FlowKeys, own: Token) -> Iterator[bytes]:
    """Find the keys of a flow that a renewal has not made that died before its manifest.

    Such a renewal has made empty cells, and journals and progress without rows, under a token that
    nobody else has.

    :arg own: The token of the renewal.
    """
    found = remains(client, keys)
    while batch := list(islice(found, _BATCH)):
        yield from _foreign(client, keys, own, batch)


def _foreign(
    client: redis.Redis, keys: FlowKeys, own: Token, batch: Sequence[bytes]
) -> Iterator[bytes]:
    witnesses: dict[bytes, tuple[bytes, str]] = {}
    for key in batch:
        place = keys.parse(key)
        if place is None:
            continue
        if place.kind == "applied":
            witnesses[key] = (key, "count")
        elif place.kind in ("journal", "progress"):
            witnesses[key] = (keys.progress(place.number, place.generation), "row")
    with client.pipeline(transaction=False) as pipe:
        for witness, field in witnesses.values():
            pipe.hmget(witness, "generation", field)
        answers = pipe.execute()
    made = [str(own).encode(), b"0"]
    empty = {key for key, answer in zip(witnesses, answers, strict=True) if answer == made}
    yield from (key for key in batch if key not in empty)
