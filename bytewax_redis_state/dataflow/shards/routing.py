"""The way into the shards and out of them: a batch at a time, never an item at a time.

Into: ``(key, value)`` items become one ``(shard name, {key: [values]})`` per shard and batch, or
one ``(shard name, [(key, value), …])`` for shards that want no more. Out: ``(shard name, [(key,
value), …])`` become items again. Invariant: the values of a key keep their order.
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
"""What one batch holds for one shard: key to its values, in order."""
Pairs = list[tuple[str, Any]]
"""What one batch holds for one shard: its items, in order."""

_Split = Callable[[list[Any], list[str]], Iterable[Any]]

_second = itemgetter(1)


def router(shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    """Make the mapper that sends batches to shards.

    An item that the engine would refuse goes on alone, so that the engine refuses it in its own
    words.

    :arg shards: Of the flow.
    :arg workers: In the whole cluster.
    :returns: A mapper for ``flat_map_batch``.
    """
    return _mapper(_grouped, shards, workers)


def pair_router(shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    """Make the mapper that sends batches to shards that take items as they are.

    :arg shards: Of the flow.
    :arg workers: In the whole cluster.
    :returns: A mapper for ``flat_map_batch``; what the engine would refuse is left to it too.
    """
    return _mapper(_split, shards, workers)


def _mapper(split: _Split, shards: int, workers: int) -> Callable[[list[Any]], Iterable[Any]]:
    names = [shard_name(shard, workers) for shard in range(shards)]

    def route(batch: list[Any]) -> Iterable[Any]:
        try:
            return split(batch, names)
        except (TypeError, ValueError):  # an odd item; which one, and is it allowed?
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
    """Put together what several batches hold for one shard; the first one is changed."""
    groups = values[0]
    for part in values[1:]:
        for key, batch in part.items():
            if key in groups:
                groups[key] += batch
            else:
                groups[key] = batch
    return groups


def unroute(batch: list[tuple[str, list[tuple[str, Any]]]]) -> Iterator[tuple[str, Any]]:
    """Make items of what the shards put out.

    :arg batch: Shard name to items, of any shards.
    :returns: The items.
    """
    return chain.from_iterable(map(_second, batch))
