"""The operations of a state backend on Redis, each described once.

Invariant: nothing here sends anything, waits, or knows whether its driver blocks.
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

TRIP_KEYS = 1000
"""Most keys in one trip of a batch."""
TRIP_BYTES = 4 * 1024 * 1024
"""Most bytes of values in one trip of a batch; a single value may be larger."""
PAGE = 1000
"""How many keys the server looks at in one step of a listing."""

_ENDLESS = timedelta.max


class Versioned(NamedTuple):
    """A value and which one it is.

    :arg value: The value, or the default.
    :arg version: For ``compare_and_put``; ``None`` where there is nothing. Equal bytes are one
        version: a value that changed and changed back counts as unchanged.
    """

    value: Any
    version: str | None


def version_of(data: bytes) -> str:
    """Tell the version of what is stored."""
    return hashlib.sha1(data).hexdigest()


def milliseconds(ttl: timedelta) -> int:
    """Check a time to live.

    :arg ttl: Above zero.
    :returns: It, in milliseconds, at least one.
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
    :arg meter: Counts what goes through.
    :arg default_ttl: For what is put without one.
    :arg refresh_on_read: Whether reading a key that expires starts the default TTL anew.
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
        """Tell the milliseconds that a put gets, ``None`` for no end."""
        return self._default_ttl if ttl is None else milliseconds(ttl)

    def encoded(self, key: Key, value: Any) -> bytes:
        """Encode a value that is about to be sent."""
        data = self.values.dump(key, value)
        self.meter.wrote(len(data))
        return data

    def decoded(self, key: Key, data: bytes | None, default: Any) -> Any:
        """Decode what was read."""
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
        """Look whether it is there."""
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
        """Take the end away."""
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
        """Replace, and read what was there."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        (data,) = yield [StateScripts.get_and_put(full, self.encoded(key, value), left)]
        return self.decoded(key, data, default)

    @operation("set_if_not_exists", idempotent=False)
    def set_if_not_exists(
        self, key: Key, value: Any, ttl: timedelta | None = None
    ) -> CommandGenerator[bool]:
        """Write where nothing is."""
        full, left = self.keys.full(key), self.ttl_of(ttl)
        (done,) = yield [StateScripts.set_if_not_exists(full, self.encoded(key, value), left)]
        return bool(done)

    @operation("compare_and_put", idempotent=False)
    def compare_and_put(
        self, key: Key, value: Any, expected_version: str | None, ttl: timedelta | None = None
    ) -> CommandGenerator[str | None]:
        """Write over a version."""
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
        for trip in self._trips(full, None):
            replies = yield [self._read_many(_picked(full, part)) for part in trip]
            self.meter.batch()
            at = list(chain.from_iterable(trip))
            data = list(chain.from_iterable(replies))
            misses = 0
            if None in data:
                yield from self._look_again(full, at, data)
                at = [i for i, one in zip(at, data, strict=True) if one is not None]
                misses = len(data) - len(at)
                data = [one for one in data if one is not None]
            self.meter.read(len(at), misses, sum(map(len, data)))
            here = [wanted[i] for i in at]
            found.update(zip(here, self.values.load_all(here, data), strict=True))
        return found

    def _look_again(
        self, full: Sequence[bytes], at: Sequence[int], data: list[bytes | None]
    ) -> CommandGenerator[None]:
        """Meet keys of another type, which MGET passes over: GET raises for them."""
        missing = [place for place, one in enumerate(data) if one is None]
        keys = [full[at[place]] for place in missing]
        there = yield [("EXISTS", *_picked(keys, part)) for part in self._parts(keys)]
        if any(there):
            again = yield [("GET", key) for key in keys]
            for place, one in zip(missing, again, strict=True):
                data[place] = one

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
        for trip in self._trips(full, data):
            yield [_write_many(_picked(full, p), _picked(data, p), left) for p in trip]
            self.meter.batch()

    @operation("batch_delete", idempotent=True)
    def batch_delete(self, keys: Iterable[Key]) -> CommandGenerator[int]:
        """Delete many."""
        full = list(dict.fromkeys(self.keys.full_all(list(keys))))
        gone = 0
        for trip in self._trips(full, None):
            replies = yield [("UNLINK", *_picked(full, part)) for part in trip]
            self.meter.batch()
            gone += sum(replies)
        return gone

    def _trips(
        self, full: Sequence[bytes], data: Sequence[bytes] | None
    ) -> Iterator[list[Sequence[int]]]:
        """Split a batch into trips of commands of keys, each key by its place."""
        trip: list[Sequence[int]] = []
        keys = size = 0
        for part in self._parts(full):
            weight = 0 if data is None else sum(map(len, _picked(data, part)))
            if trip and (keys + len(part) > TRIP_KEYS or size + weight > TRIP_BYTES):
                yield trip
                trip, keys, size = [], 0, 0
            trip.append(part)
            keys += len(part)
            size += weight
        if trip:
            yield trip

    def _parts(self, full: Sequence[bytes]) -> Iterator[Sequence[int]]:
        most = min(self._command_keys, TRIP_KEYS)
        for group in self._of_one_slot(full):
            for start in range(0, len(group), most):
                yield group[start : start + most]

    def _of_one_slot(self, full: Sequence[bytes]) -> Iterable[Sequence[int]]:
        if not self.is_cluster:
            return (range(len(full)),)
        groups: dict[int, list[int]] = {}
        for place, key in enumerate(full):
            groups.setdefault(slot_of(key), []).append(place)
        return groups.values()

    # --- all keys -------------------------------------------------------------------------------

    @operation("list_keys", idempotent=True)
    def page(self, cursor: int, pattern: bytes) -> CommandGenerator[tuple[int, list[bytes]]]:
        """List one page."""
        return (yield from self._page(cursor, pattern))

    def _page(self, cursor: int, pattern: bytes) -> CommandGenerator[tuple[int, list[bytes]]]:
        (answer,) = yield [("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)]
        return int(answer[0]), [key for key in answer[1] if not self.keys.is_own(key)]

    def named(self, found: list[bytes], seen: set[bytes] | None) -> Iterator[Key]:
        """Name the keys of a page as the user does; those seen before are left out."""
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
                groups = self._of_one_slot(found)
                gone += sum((yield [("UNLINK", *[found[i] for i in group]) for group in groups]))
        return gone


def _picked(things: Sequence[bytes], places: Sequence[int]) -> Sequence[bytes]:
    if isinstance(places, range):
        return things[places.start : places.stop]
    return [things[place] for place in places]


def _write_many(full: Sequence[bytes], data: Sequence[bytes], ttl: int | None) -> Command:
    if ttl is None:
        return ("MSET", *chain.from_iterable(zip(full, data, strict=True)))
    return StateScripts.put_expiring(full, data, ttl)


def check_increment(by: int, values: Values) -> None:
    """Check what is to be added, and that this backend can count.

    :raises ArgumentError: If it is no integer of 64 bits.
    :raises NotACounterError: If the codec encrypts or signs.
    """
    if not values.counts:
        raise NotACounterError(
            "counters are plain integers, and this backend's codec encrypts or signs",
            "use a backend of its own, without encryption and signing, for counters",
        )
    if type(by) is not int or not SMALLEST <= by <= LARGEST:
        raise ArgumentError(f"by is {by!r}", "give an integer of 64 bits")


def not_a_counter(key: Key, said: str) -> NotACounterError:
    """Make the error for a key that can't be counted up, from what the server said."""
    if "overflow" in said:
        return NotACounterError(
            f"key {key!r}: the sum would leave 64 bits", "put a smaller integer first"
        )
    return NotACounterError(
        f"key {key!r} holds no integer that can be counted up", "delete it, or use another key"
    )
