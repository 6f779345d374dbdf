"""Reseal: write restored values again that other keys protect than the flow writes with.

A running flow writes what changes; idle state would carry an old key for ever, and the key could
never be taken out. So a start writes such values again, in Redis and in memory for the engine.

Invariant: only the protection changes. A start that dies midway leaves some values with the old
key and some with the new one; the next start does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import OVERHEAD, any_protected, key_ids_of
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.fenced_store import FencedStore

__all__ = ["reseal_outdated"]

_KEYS, _BYTES = 500, 1024 * 1024  # of one script


def reseal_outdated(
    store: FencedStore, cells: Mapping[Cell, dict[str, bytes]], codec: Codec
) -> int:
    """Write the values again that other keys protect, or none, than the codec writes with.

    :arg cells: What was restored; holds the new values afterwards.
    :arg codec: Of the flow.
    :returns: How many there were.
    :raises DecodeError: If a value is forged, needs a key that is not there, or lacks a protection
        that the settings insist on; names step and state key.
    :raises FencedError: If another start overtook this one.
    """
    count = 0
    for cell, states in cells.items():
        bound = codec.bind(
            namespace=store.keys.namespace, flow_id=store.keys.flow_id, step=cell.step
        )
        for state_key in _one_of_each(states):
            bound.require_readable(state_key, states[state_key])
        fresh = bound.outdated(states)
        if fresh:
            _write(store, cell, states, fresh)
            states.update(fresh)
            count += len(fresh)
    return count


def _one_of_each(states: Mapping[str, bytes]) -> Iterator[str]:
    """Find a value for each pair of key IDs: a key of wrong bytes shows before the engine runs."""
    if not any_protected(states.values()):
        yield from islice(states, 1)
        return
    seen = set()
    for state_key, data in states.items():
        ids = key_ids_of(data)
        if ids not in seen:
            seen.add(ids)
            yield state_key


def _write(
    store: FencedStore,
    cell: Cell,
    states: Mapping[str, bytes],
    fresh: Mapping[str, bytes],
) -> None:
    prefix = store.keys.state_prefix(cell.step, cell.shard)
    for chunk in _chunks(fresh):
        with store.client.pipeline(transaction=False) as pipe:
            store.scripts.reseal_keys(
                store.keys.applied(cell.step, cell.shard),
                [prefix + state_key.encode() for state_key in chunk],
                store.incarnation,
                store.generation,
                [part for key in chunk for part in (states[key][:OVERHEAD], fresh[key])],
                pipe,
            )
            store.require_own(pipe.execute())


def _chunks(values: Mapping[str, bytes]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for key, value in values.items():
        chunk.append(key)
        size += len(value)
        if len(chunk) == _KEYS or size > _BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
