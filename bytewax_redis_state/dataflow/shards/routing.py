"""Routing: items go into shards, and outputs come out of them, a batch at a time.

Route makes of ``(key, value)`` items one ``(shard name, {key: [values]})`` per shard and batch, or
one ``(shard name, [(key, value), …])`` for shards that process items in the order of arrival.
Unroute makes items again of ``(shard name, [(key, value), …])``. So the engine's cost per item
becomes a cost per shard and batch. Invariant: the values of a key keep their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import itemgetter
from typing import Any
from zlib import crc32

from bytewax_redis_state.dataflow.shards.shard_names import shard_name

__all__ = ["Groups", "Pairs", "merged", "pair_router", "router", "unroute"]

Groups = dict[str, list[Any]]
"""A shard's part of one batch: key to its values, in order."""
Pairs = list[tuple[str, Any]]
"""A shard's part of one batch: its items, in order."""

_Split = Callable[[list[Any], list[str]], Iterable[Any]]

_second = itemgetter(1)


def router(shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    """Make the mapper that groups the items of a batch by shard and key.

    An item that the engine would refuse is passed on alone, so that the engine refuses it in its
    own words.

    :arg shards: Of the flow.
    :arg workers: In the whole cluster.
    :returns: A mapper for ``flat_map_batch``.
    """
    return _mapper(_grouped, shards, workers)


def pair_router(shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    """Make the mapper that groups the items of a batch by shard; for shards that need no more.

    :arg shards: Of the flow.
    :arg workers: In the whole cluster.
    :returns: A mapper for ``flat_map_batch``; it leaves refusals to the engine, as :func:`router`.
    """
    return _mapper(_split, shards, workers)


def _mapper(split: _Split, shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    names = [shard_name(shard, workers) for shard in range(shards)]

    def route(batch: list[Any]) -> Iterable[Any]:
        try:
            return split(batch, names)
        except (TypeError, ValueError):
            # Items are not checked one by one. Only now find out whether the engine would refuse
            # one of them, or a key is of a subclass of str, which the engine accepts.
            plain, refused = _plain(batch)
            return refused or split(plain, names)

    return route


def _split(batch: list[Any], names: list[str]) -> Iterable[tuple[str, Pairs]]:
    parts: defaultdict[int, Pairs] = defaultdict(list)
    shards = len(names)
    for item in batch:
        key, _value = item
        if type(key) is not str or type(item) is not tuple:
            raise TypeError
        parts[crc32(key.encode()) % shards].append(item)
    return [(names[shard], part) for shard, part in parts.items()]


def _grouped(batch: list[Any], names: list[str]) -> Iterable[tuple[str, Groups]]:
    parts: defaultdict[int, Groups] = defaultdict(dict)
    shards = len(names)
    for item in batch:
        key, value = item
        if type(key) is not str or type(item) is not tuple:
            raise TypeError
        groups = parts[crc32(key.encode()) % shards]
        if key in groups:
            groups[key].append(value)
        else:
            groups[key] = [value]
    return [(names[shard], groups) for shard, groups in parts.items()]


def _plain(batch: list[Any]) -> tuple[list[Any], list[Any]]:
    """Make keys plain ``str``, or find the first item that the engine would refuse."""
    plain = []
    for item in batch:
        if not (isinstance(item, tuple) and len(item) == 2 and _is_text(item[0])):
            return [], [item]
        plain.append((str.__str__(item[0]), item[1]))
    return plain, []


def _is_text(key: Any) -> bool:
    if not isinstance(key, str):
        return False
    try:
        str.encode(key)
    except UnicodeEncodeError:
        return False
    return True


def merged(values: list[Groups]) -> Groups:
    """Merge a shard's parts of several batches into the first one."""
    groups = values[0]
    for part in values[1:]:
        for key, batch in part.items():
            if key in groups:
                groups[key] += batch
            else:
                groups[key] = batch
    return groups


def unroute(batch: list[tuple[str, list[tuple[str, Any]]]]) -> Iterator[tuple[str, Any]]:
    """Make items of the output of shards.

    :arg batch: Pairs of shard name and items.
    :returns: The items.
    """
    return chain.from_iterable(map(_second, batch))
