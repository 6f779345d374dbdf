"""The operations of a state backend on Redis, each described once as a generator.

Invariant: no operation sends anything or waits by itself, or knows whether its driver blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, NamedTuple

from bytewax_redis_state.backend.generator import Command, CommandGenerator
from bytewax_redis_state.backend.operation import operation
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.values import LARGEST, SMALLEST, Key, Values
from bytewax_redis_state.errors import ArgumentError, NotACounterError
from bytewax_redis_state.keys import PrefixKeys, slot_of
from bytewax_redis_state.scripts import StateScripts

__all__ = ["Operations", "Versioned", "milliseconds", "version_of"]

ROUND_TRIP_KEYS = 1000
"""Most keys in one round trip of a batch."""
ROUND_TRIP_BYTES = 4 * 1024 * 1024
"""Most bytes of values in one round trip of a batch; a single value may be larger."""
PAGE = 1000
"""Keys that the server looks at in one step of a listing, and that ``items`` reads at once."""


class Versioned(NamedTuple):
    """A value and its version.

    :arg value: The value, or the default.
    :arg version: For ``compare_and_put``; ``None`` where there is no value. Equal bytes are
        one version: a value that changed and changed back counts as unchanged.
    """

    value: Any
    version: str | None


def version_of(data: bytes) -> str:
    """Compute the version of a stored value, as the Lua scripts do.

    A hash needs no second key and makes no value longer, as a counter would.
    """
    return hashlib.sha1(data).hexdigest()


def milliseconds(ttl: timedelta) -> int:
    """Check a time to live, and convert it.

    :arg ttl: Above zero.
    :returns: The milliseconds, at least one.
    :raises ArgumentError: If it is zero, negative, or no timedelta.
    """
    if not isinstance(ttl, timedelta):
        raise ArgumentError(f"ttl is {ttl!r}", "give a timedelta, such as timedelta(minutes=5)")
    if ttl <= timedelta(0):
        raise ArgumentError(f"ttl is {ttl!r}", "give a timedelta above zero, or delete the key")
    return max(1, ttl // timedelta(milliseconds=1))


class Operations:
    """Describe the operations of one backend.

    :arg keys: Its keys.
    :arg values: Its values.
    :arg meter: Counts keys and bytes.
    :arg default_ttl: For values that are put without a TTL.
    :arg refresh_on_read: Whether reading a key that expires starts the default TTL again.
    :arg command_keys: Most keys in one command of a batch.
    :arg is_cluster: Whether keys of one command must share a slot.
    """

    def __init__(
        self,
        keys: PrefixKeys,
        values: Values,
        meter: Meter,
        *,
        default_ttl: timedelta | None = None,
        refresh_on_read: bool = False,
        command_keys: int = 100,
        is_cluster: bool = False,
    ) -> None:
        self.keys = keys
        self.values = values
        self.meter = meter
        self._default_ttl = None if default_ttl is None else milliseconds(default_ttl)
        self._refresh = self._default_ttl if refresh_on_read else None
        self._command_keys = command_keys
        self.is_cluster = is_cluster

    def ttl_of(self, ttl: timedelta | None) -> int | None:
        """Tell the TTL of a put in milliseconds, ``None`` for no end."""
        return self._default_ttl if ttl is None else milliseconds(ttl)

    def encoded(self, key: Key, value: Any) -> bytes:
        """Encode a value that is about to be sent, and count its bytes."""
        data = self.values.dump(key, value)
        self.meter.wrote(len(data))
        return data

    def decoded(self, key: Key, data: bytes | None, default: Any) -> Any:
        """Decode a value that was read, and count it as a hit or a miss."""
        if data is None:
            self.meter.read(0, 1, 0)
            return default
        self.meter.read(1, 0, len(data))
        return self.values.load(key, data)

    # --- one key --------------------------------------------------------------------------------

    @operation("get", idempotent=True)
    def get(self, key: Key, default: Any = None) -> CommandGenerator[Any]:
        """Read."""
        full = self.keys.full(key)
        if self._refresh is None:
            (data,) = yield [("GET", full)]
        else:
            ((data,),) = yield [StateScripts.get_refreshed((full,), self._refresh)]
        return self.decoded(key, data, default)

    @operation("get_with_version", idempotent=True)
    def get_with_version(self, key: Key, default: Any = None) -> CommandGenerator[Versioned]:
        """Read, with the version."""
        (data,) = yield [("GET", self.keys.full(key))]
        value = self.decoded(key, data, default)
        return Versioned(value, None if data is None else version_of(data))

    @operation("put", idempotent=True)
    def put(self, key: Key, value: Any, ttl: timedelta | None = None) -> CommandGenerator[None]:
        """Write."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        data = self.encoded(key, value)
        yield [("SET", full, data) if left is None else ("SET", full, data, "PX", left)]

    @operation("delete", idempotent=True)
    def delete(self, key: Key) -> CommandGenerator[bool]:
        """Delete."""
        (gone,) = yield [("UNLINK", self.keys.full(key))]
        return bool(gone)

    @operation("contains", idempotent=True)
    def contains(self, key: Key) -> CommandGenerator[bool]:
        """Tell whether there is a value."""
        (there,) = yield [("EXISTS", self.keys.full(key))]
        return bool(there)

    @operation("ttl", idempotent=True)
    def ttl(self, key: Key) -> CommandGenerator[timedelta | None]:
        """Read the time left."""
        (left,) = yield [("PTTL", self.keys.full(key))]
        return timedelta(milliseconds=left) if left >= 0 else None

    @operation("expire", idempotent=True)
    def expire(self, key: Key, ttl: timedelta) -> CommandGenerator[bool]:
        """Set the time left."""
        (done,) = yield [("PEXPIRE", self.keys.full(key), milliseconds(ttl))]
        return bool(done)

    @operation("persist", idempotent=True)
    def persist(self, key: Key) -> CommandGenerator[bool]:
        """Remove the TTL."""
        (done,) = yield [("PERSIST", self.keys.full(key))]
        return bool(done)

    # --- atomic ---------------------------------------------------------------------------------

    @operation("get_and_delete", idempotent=False)
    def get_and_delete(self, key: Key, default: Any = None) -> CommandGenerator[Any]:
        """Read and delete."""
        (data,) = yield [StateScripts.get_and_delete(self.keys.full(key))]
        return self.decoded(key, data, default)

    @operation("get_and_put", idempotent=False)
    def get_and_put(
        self, key: Key, value: Any, ttl: timedelta | None = None, default: Any = None
    ) -> CommandGenerator[Any]:
        """Replace, and read the value before."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        (data,) = yield [StateScripts.get_and_put(full, self.encoded(key, value), left)]
        return self.decoded(key, data, default)

    @operation("set_if_not_exists", idempotent=False)
    def set_if_not_exists(
        self, key: Key, value: Any, ttl: timedelta | None = None
    ) -> CommandGenerator[bool]:
        """Write if there is no value."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        (done,) = yield [StateScripts.set_if_not_exists(full, self.encoded(key, value), left)]
        return bool(done)

    @operation("compare_and_put", idempotent=False)
    def compare_and_put(
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> CommandGenerator[str | None]:
        """Write if the version is still the expected one."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        data = self.encoded(key, value)
        (done,) = yield [StateScripts.compare_and_put(full, expected_version or "", data, left)]
        return version_of(data) if done else None

    @operation("increment", idempotent=False)
    def increment(
        self, key: Key, by: int = 1, ttl: timedelta | None = None
    ) -> CommandGenerator[int]:
        """Add."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        check_increment(by, self.values)
        (answer,) = yield [StateScripts.increment(full, by, left)]
        if answer[0] == b"":
            raise not_a_counter(key, answer[1].decode(errors="replace"))
        return int(answer[0])

    # --- batches --------------------------------------------------------------------------------

    @operation("batch_get", idempotent=True)
    def batch_get(self, keys: Iterable[Key]) -> CommandGenerator[dict[Key, Any]]:
        """Read many."""
        wanted = list(dict.fromkeys(keys))
        full = self.keys.full_all(wanted)
        found: dict[Key, Any] = {}
        for round_trip in self._round_trips(full, None):
            replies = yield [self._read_many(_picked(full, part)) for part in round_trip]
            self.meter.batch()
            indexes = list(chain.from_iterable(round_trip))
            data = list(chain.from_iterable(replies))
            misses = 0
            if None in data:
                yield from self._raise_for_other_types(full, indexes, data)
                indexes = [i for i, one in zip(indexes, data, strict=True) if one is not None]
                misses = len(data) - len(indexes)
                data = [one for one in data if one is not None]
            self.meter.read(len(indexes), misses, sum(map(len, data)))
            here = [wanted[i] for i in indexes]
            found.update(zip(here, self.values.load_all(here, data), strict=True))
        return found

    def _raise_for_other_types(
        self, full: Sequence[bytes], indexes: Sequence[int], data: list[bytes | None]
    ) -> CommandGenerator[None]:
        """Ask again for keys that seem to be missing.

        MGET answers nil for a key that holds no string. GET raises for it, as a single get does.
        """
        missing = [i for i, one in enumerate(data) if one is None]
        keys = [full[indexes[i]] for i in missing]
        there = yield [("EXISTS", *_picked(keys, part)) for part in self._parts(keys)]
        if any(there):
            again = yield [("GET", key) for key in keys]
            for i, one in zip(missing, again, strict=True):
                data[i] = one

    def _read_many(self, full: Sequence[bytes]) -> Command:
        if self._refresh is None:
            return ("MGET", *full)
        return StateScripts.get_refreshed(full, self._refresh)

    @operation("batch_put", idempotent=True)
    def batch_put(
        self, items: Mapping[Key, Any], ttl: timedelta | None = None
    ) -> CommandGenerator[None]:
        """Write many."""
        left = self.ttl_of(ttl)
        keys = list(items)
        full = self.keys.full_all(keys)
        data = self.values.dump_all(keys, list(items.values()))
        self.meter.wrote(sum(map(len, data)))
        for round_trip in self._round_trips(full, data):
            yield [_write_many(_picked(full, p), _picked(data, p), left) for p in round_trip]
            self.meter.batch()

    @operation("batch_delete", idempotent=True)
    def batch_delete(self, keys: Iterable[Key]) -> CommandGenerator[int]:
        """Delete many."""
        full = list(dict.fromkeys(self.keys.full_all(list(keys))))
        gone = 0
        for round_trip in self._round_trips(full, None):
            replies = yield [("UNLINK", *_picked(full, part)) for part in round_trip]
            self.meter.batch()
            gone += sum(replies)
        return gone

    def _round_trips(
        self, full: Sequence[bytes], data: Sequence[bytes] | None
    ) -> Iterator[list[Sequence[int]]]:
        """Split a batch into round trips of commands; a command is the indexes of its keys."""
        round_trip: list[Sequence[int]] = []
        keys = size = 0
        for part in self._parts(full):
            weight = 0 if data is None else sum(map(len, _picked(data, part)))
            if round_trip and (
                keys + len(part) > ROUND_TRIP_KEYS or size + weight > ROUND_TRIP_BYTES
            ):
                yield round_trip
                round_trip, keys, size = [], 0, 0
            round_trip.append(part)
            keys += len(part)
            size += weight
        if round_trip:
            yield round_trip

    def _parts(self, full: Sequence[bytes]) -> Iterator[Sequence[int]]:
        most = min(self._command_keys, ROUND_TRIP_KEYS)
        for group in self._by_slot(full):
            for start in range(0, len(group), most):
                yield group[start : start + most]

    def _by_slot(self, full: Sequence[bytes]) -> Iterable[Sequence[int]]:
        if not self.is_cluster:
            return (range(len(full)),)
        groups: dict[int, list[int]] = {}
        for index, key in enumerate(full):
            groups.setdefault(slot_of(key), []).append(index)
        return groups.values()

    # --- all keys -------------------------------------------------------------------------------

    @operation("list_keys", idempotent=True)
    def page(self, cursor: int, pattern: bytes) -> CommandGenerator[tuple[int, list[bytes]]]:
        """List one page."""
        return (yield from self._page(cursor, pattern))

    def _page(self, cursor: int, pattern: bytes) -> CommandGenerator[tuple[int, list[bytes]]]:
        (answer,) = yield [("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)]
        return int(answer[0]), [key for key in answer[1] if self.keys.is_users(key)]

    def named(self, found: list[bytes], seen: set[bytes] | None) -> Iterator[Key]:
        """Give the user's keys of a page; those seen before are left out."""
        if seen is not None:
            found = [key for key in dict.fromkeys(found) if key not in seen]
            seen.update(found)
        return map(self.keys.user, found)

    @operation("count", idempotent=True)
    def count(self, prefix: Key = "", *, unique: bool = False) -> CommandGenerator[int]:
        """Count."""
        pattern, cursor, number = self.keys.pattern(prefix), -1, 0
        seen: set[bytes] = set()
        while cursor:
            cursor, found = yield from self._page(max(cursor, 0), pattern)
            number += len(found)
            if unique:
                seen.update(found)
        return len(seen) if unique else number

    @operation("clear", idempotent=True)
    def clear(self, prefix: Key = "") -> CommandGenerator[int]:
        """Delete all."""
        pattern, cursor, gone = self.keys.pattern(prefix), -1, 0
        while cursor:
            cursor, found = yield from self._page(max(cursor, 0), pattern)
            if found:
                groups = self._by_slot(found)
                gone += sum((yield [("UNLINK", *[found[i] for i in group]) for group in groups]))
        return gone


def _picked(things: Sequence[bytes], indexes: Sequence[int]) -> Sequence[bytes]:
    if isinstance(indexes, range):  # outside a cluster; a slice costs a fraction of the loop
        return things[indexes.start : indexes.stop]
    return [things[index] for index in indexes]


def _write_many(full: Sequence[bytes], data: Sequence[bytes], ttl: int | None) -> Command:
    if ttl is None:
        return ("MSET", *chain.from_iterable(zip(full, data, strict=True)))
    return StateScripts.put_expiring(full, data, ttl)


def check_increment(by: int, values: Values) -> None:
    """Check that a number can be added, and that this backend has counters.

    :raises ArgumentError: If the number is no integer of 64 bits.
    :raises NotACounterError: If the codec encrypts or signs.
    """
    if not values.has_counters:
        raise NotACounterError(
            "this backend's codec encrypts or signs, and the server can only add to plain integers",
            "keep counters in another backend, with its own prefix and a codec that does neither",
        )
    if type(by) is not int or not SMALLEST <= by <= LARGEST:
        raise ArgumentError(f"by is {by!r}, which is no integer of 64 bits", "give an int that is")


def not_a_counter(key: Key, said: str) -> NotACounterError:
    """Make the error for a key that can't be incremented, from the server's error text."""
    if "overflow" in said:
        return NotACounterError(
            f"key {key!r}: the sum does not fit into 64 bits", "put a smaller integer first"
        )
    return NotACounterError(
        f"key {key!r} holds a value that is no integer", "delete the key, or use another one"
    )
