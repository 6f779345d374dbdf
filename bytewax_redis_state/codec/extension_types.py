"""Extension types: how msgpack exactly holds values for which it has no type.

Invariant: a code, once given, keeps its meaning; a new meaning takes a new code.

=====  ================  =================================================================
code   type              data
=====  ================  =================================================================
1      tuple             array of its values
2      int over 64 bit   two's complement, little-endian
3      bytearray         its bytes
4      datetime          10 bytes of its pickle state, then the zone
5      date              4 bytes of its pickle state
6      time              6 bytes of its pickle state, then the zone
7      timedelta         microseconds as in 2
8      Decimal           its text
9      UUID              16 bytes; ``is_safe`` + 1 follows where it is known
10     set               array
11     frozenset         array
12     deque             array of its bound and its values
13     OrderedDict       map
14     Counter           map
15     defaultdict       array of its factory's name and a map
16     complex           array of two floats
17     timezone          array of its offset and its name, if it has one
18     ZoneInfo          its key
19     compact state     kind and array, see ``compact_state``
32-37  user's class      length and name of the class, then name or fields, see ``user_classes``
=====  ================  =================================================================

A zone is nothing (naive), ``Z`` (``timezone.utc``), or a packed value of type 17 or 18. The pickle
state of datetimes is what their constructors take back, as every pickle since Python 3.6 needs.

A reader takes exactly the built-in types that a writer puts into the data, and never a value that
only behaves like one: the data may be forged, and a value of one of the flow's classes would run
its methods with fields that the forger chose.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import msgpack

from bytewax_redis_state.codec.type_format import (
    NotPackable,
    Pack,
    TypeFormat,
    Unpack,
    no_parts,
    read_list,
    read_map,
    wrong_type,
)

__all__ = ["BYTEARRAY", "READERS", "SCALARS", "TUPLE", "TYPE_FORMATS", "extension"]

TUPLE, BYTEARRAY = 1, 3

# ExtType's own constructor checks its arguments, which costs more than all the rest.
extension: Callable[[tuple[int, bytes]], Any] = partial(tuple.__new__, msgpack.ExtType)
"""Make a msgpack extension of its code and its data."""

_MICROSECOND = timedelta(microseconds=1)
_FACTORIES: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, bytearray)
} | {"deque": deque, "Counter": Counter, "OrderedDict": OrderedDict}


def _items(value: Mapping[Any, Any]) -> Iterable[Any]:
    return chain(value.values(), value)


def _native(_: object, __: Pack) -> bytes:
    raise AssertionError("msgpack packs this type itself")


def _write_values(value: Iterable[Any], pack: Pack) -> bytes:
    return pack(list(value))


def _write_int(value: int, _: Pack) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _read_int(data: bytes, _: Unpack) -> int:
    return int.from_bytes(data, "little", signed=True)


def _write_timedelta(value: timedelta, pack: Pack) -> bytes:
    return _write_int(value // _MICROSECOND, pack)


def _read_timedelta(data: bytes, unpack: Unpack) -> timedelta:
    return timedelta(microseconds=_read_int(data, unpack))


def _zone(zone: tzinfo | None, pack: Pack) -> bytes:
    if zone is None:
        return b""
    return b"Z" if zone is timezone.utc else pack(zone)


def _read_zone(data: bytes, unpack: Unpack) -> tzinfo:
    zone = timezone.utc if data == b"Z" else unpack(data)
    if type(zone) is not timezone and type(zone) is not ZoneInfo:
        raise wrong_type("a time", "a time zone", zone)
    return zone


def _write_datetime(value: datetime, pack: Pack) -> bytes:
    state: bytes = value.__reduce_ex__(4)[1][0]  # type: ignore[assignment]
    zone = value.tzinfo
    return state + (b"Z" if zone is timezone.utc else _zone(zone, pack))


def _read_datetime(data: bytes, unpack: Unpack) -> datetime:
    make: Any = datetime
    if len(data) == 10:
        return make(data)  # type: ignore[no-any-return]
    return make(data[:10], _read_zone(data[10:], unpack))  # type: ignore[no-any-return]


def _write_date(value: date, _: Pack) -> bytes:
    return value.__reduce__()[1][0]  # type: ignore[return-value]


def _read_date(data: bytes, _: Unpack) -> date:
    make: Any = date
    return make(data)  # type: ignore[no-any-return]


def _write_time(value: time, pack: Pack) -> bytes:
    state: bytes = value.__reduce_ex__(4)[1][0]  # type: ignore[assignment]
    return state + _zone(value.tzinfo, pack)


def _read_time(data: bytes, unpack: Unpack) -> time:
    make: Any = time
    if len(data) == 6:
        return make(data)  # type: ignore[no-any-return]
    return make(data[:6], _read_zone(data[6:], unpack))  # type: ignore[no-any-return]


def _write_timezone(value: timezone, pack: Pack) -> bytes:
    return pack(list(value.__getinitargs__()))  # type: ignore[attr-defined]


def _read_timezone(data: bytes, unpack: Unpack) -> timezone:
    offset, *name = read_list(data, unpack, "a timezone")
    if type(offset) is not timedelta or any(type(part) is not str for part in name):
        raise wrong_type("a timezone", "an offset and a name", [offset, *name])
    return timezone(offset, *name)


def _read_complex(data: bytes, unpack: Unpack) -> complex:
    real, imaginary = read_list(data, unpack, "a complex number")
    if type(real) is not float or type(imaginary) is not float:
        raise wrong_type("a complex number", "two floats", real)
    return complex(real, imaginary)


def _write_zoneinfo(value: ZoneInfo, _: Pack) -> bytes:
    # Zones made by no_cache() or from_file() are other objects than the one a reader would get.
    if value.key is None or ZoneInfo(value.key) is not value:
        raise NotPackable(value, "is not the zone that its key stands for")
    return value.key.encode()


def _write_uuid(value: UUID, _: Pack) -> bytes:
    if value.is_safe is SafeUUID.unknown:
        return value.bytes
    return value.bytes + bytes([value.is_safe.value + 1])


def _read_uuid(data: bytes, _: Unpack) -> UUID:
    safe = SafeUUID(data[16] - 1) if len(data) > 16 else SafeUUID.unknown
    return UUID(bytes=data[:16], is_safe=safe)


def _write_deque(value: deque[Any], pack: Pack) -> bytes:
    return pack([value.maxlen, *value])


def _read_deque(data: bytes, unpack: Unpack) -> deque[Any]:
    bound, *values = read_list(data, unpack, "a deque")
    if bound is not None and type(bound) is not int:
        raise wrong_type("a deque", "a bound", bound)
    return deque(values, bound)


def _write_map(value: dict[Any, Any], pack: Pack) -> bytes:
    if value.__dict__:
        raise NotPackable(value, "has attributes of its own")
    return pack(dict(value))


def _read_tuple(data: bytes, unpack: Unpack) -> tuple[Any, ...]:
    values = unpack(data)
    if type(values) is not list:
        raise wrong_type("a tuple", "a list", values)
    return tuple(values)


def _read_counter(data: bytes, unpack: Unpack) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, read_map(data, unpack, "a Counter"))
    return counter


def _write_defaultdict(value: defaultdict[Any, Any], pack: Pack) -> bytes:
    factory = value.default_factory
    name = getattr(factory, "__name__", None)
    if factory is not None and (type(name) is not str or _FACTORIES.get(name) is not factory):
        raise NotPackable(value, "has a default_factory that is no built-in type")
    return pack([name, dict(value)])


def _read_defaultdict(data: bytes, unpack: Unpack) -> defaultdict[Any, Any]:
    name, items = read_list(data, unpack, "a defaultdict")
    if name is not None and (type(name) is not str or name not in _FACTORIES):
        raise wrong_type("a defaultdict", "the name of a built-in type", name)
    if type(items) is not dict:
        raise wrong_type("a defaultdict", "a dict", items)
    return defaultdict(None if name is None else _FACTORIES[name], items)


TYPE_FORMATS: Mapping[type, TypeFormat] = {
    list: TypeFormat(0, _native, iter, mutable=True),
    dict: TypeFormat(0, _native, _items, mutable=True),
    tuple: TypeFormat(TUPLE, _write_values, iter),
    int: TypeFormat(2, _write_int, no_parts),
    bytearray: TypeFormat(BYTEARRAY, lambda value, _: bytes(value), no_parts, mutable=True),
    datetime: TypeFormat(4, _write_datetime, no_parts),
    date: TypeFormat(5, _write_date, no_parts),
    time: TypeFormat(6, _write_time, no_parts),
    timedelta: TypeFormat(7, _write_timedelta, no_parts),
    Decimal: TypeFormat(8, lambda value, _: str(value).encode(), no_parts),
    UUID: TypeFormat(9, _write_uuid, no_parts),
    set: TypeFormat(10, _write_values, iter, mutable=True),
    frozenset: TypeFormat(11, _write_values, iter),
    deque: TypeFormat(12, _write_deque, iter, mutable=True),
    OrderedDict: TypeFormat(13, _write_map, _items, mutable=True),
    Counter: TypeFormat(14, _write_map, _items, mutable=True),
    defaultdict: TypeFormat(15, _write_defaultdict, _items, mutable=True),
    complex: TypeFormat(16, lambda value, pack: pack([value.real, value.imag]), no_parts),
    timezone: TypeFormat(17, _write_timezone, no_parts),
    ZoneInfo: TypeFormat(18, _write_zoneinfo, no_parts),
}
"""The format of each built-in type; classes of the user have theirs from :func:`.format_of`."""

READERS: Mapping[int, Callable[[bytes, Unpack], Any]] = {
    TUPLE: _read_tuple,
    2: _read_int,
    BYTEARRAY: lambda data, _: bytearray(data),
    4: _read_datetime,
    5: _read_date,
    6: _read_time,
    7: _read_timedelta,
    8: lambda data, _: Decimal(data.decode()),
    9: _read_uuid,
    10: lambda data, unpack: set(read_list(data, unpack, "a set")),
    11: lambda data, unpack: frozenset(read_list(data, unpack, "a frozenset")),
    12: _read_deque,
    13: lambda data, unpack: OrderedDict(read_map(data, unpack, "an OrderedDict")),
    14: _read_counter,
    15: _read_defaultdict,
    16: _read_complex,
    17: _read_timezone,
    18: lambda data, _: ZoneInfo(data.decode()),
}
"""Extension type to reader: data and unpacker of inner values → value."""

SCALARS = frozenset({type(None), bool, int, float, str, bytes, complex}) | frozenset(
    {datetime, date, time, timedelta, Decimal, UUID, timezone, ZoneInfo}
)
"""Types whose values hold no others and can't change, so that nobody can tell copies apart."""
