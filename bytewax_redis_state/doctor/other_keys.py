"""All keys of a flow but its states: leases, counter, manifest, journals, progress, cells.

There are few of them, unless another program writes into the flow's keyspace.
"""

from __future__ import annotations

import redis

from bytewax_redis_state.doctor.checked_flow import CheckedFlow, Writers
from bytewax_redis_state.keys import FlowKeys, ParsedKey
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["OtherKeys", "check_other_keys", "find_other_keys"]

_SCAN_COUNT = 10_000

OtherKeys = dict[bytes, ParsedKey | None]
"""Key to what it is; ``None`` for a key that :mod:`bytewax_redis_state.keys` does not build."""


def find_other_keys(client: redis.Redis, keys: FlowKeys) -> OtherKeys:
    """Find all keys of a flow that are not states.

    :arg client: Connected to the Redis that holds the flow.
    :arg keys: Parse the keys of the flow.
    :returns: The keys in order.
    """
    found: OtherKeys = {}
    for pattern in keys.patterns:
        for key in client.scan_iter(match=pattern, count=_SCAN_COUNT):
            place = keys.parse(key)
            if place is None or place.kind != "state":
                found[key] = place
    return dict(sorted(found.items()))


def check_other_keys(flow: CheckedFlow, others: OtherKeys, writers: Writers) -> None:
    """Name every key that no process of the flow will read.

    :arg flow: The flow.
    :arg others: All of its keys but its states.
    :arg writers: The processes that may write meanwhile.
    """
    for key, place in others.items():
        name = key.decode(errors="backslashreplace")
        if place is None:
            flow.findings.say(
                "error",
                f"the key {name!r} is not one that this package writes",
                "find out which program wrote it, and delete it",
                kind="foreign keys",
            )
        elif place.kind in ("journal", "progress"):
            _check_partition(flow, name, place, writers)
        elif place.kind == "applied":
            _check_cell(flow, name, place)


def _check_partition(flow: CheckedFlow, name: str, place: ParsedKey, writers: Writers) -> None:
    manifest = flow.manifest
    if place.generation < manifest.generation:
        flow.findings.say(
            "note",
            f"{name!r} is left from generation {place.generation}",
            "nothing to do: the flow deletes it when it runs next",
            kind="keys of older generations",
        )
    elif place.generation == manifest.generation and place.number < manifest.partitions:
        return
    elif not writers.starting:
        flow.findings.say(
            "error",
            f"{name!r} is of generation {place.generation}, partition {place.number}, which the "
            "manifest does not list",
            way_out(flow.keys),
            kind="keys of newer generations",
        )


def _check_cell(flow: CheckedFlow, name: str, place: ParsedKey) -> None:
    if place.step in flow.manifest.steps and place.number < flow.manifest.shards:
        return
    flow.findings.say(
        "warning",
        f"the cell {name!r} is of a step or shard that the manifest does not list",
        "no process reads it: delete it",
        kind="cells of unknown steps",
    )
