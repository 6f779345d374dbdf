"""Forged values: an instance of one of the flow's classes in the place of each built-in value.

Without pickle, a forger can make up fields of the flow's classes, and must not be able to have
their methods run. So each extension type is put into each other one, and into all their places.
"""

from __future__ import annotations

import sys
from collections import namedtuple
from dataclasses import dataclass, field
from enum import Enum

import msgpack
import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.compact_state import COMPACT_STATE, FIXED, JOIN, SESSIONS
from bytewax_redis_state.codec.envelope import MSGPACK, MSGPACK_TUPLE, seal
from bytewax_redis_state.codec.extension_types import READERS
from bytewax_redis_state.codec.user_classes import UserClasses
from bytewax_redis_state.errors import DecodeError

STRICT = Codec(allow_pickle=False).bind(namespace="n", flow_id="f", step="s")
RAN: list[str] = []


def _spy(name):
    def method(self, *_args, **_more):
        RAN.append(f"{type(self).__name__}.{name}")
        return [] if name != "__len__" else 0

    return method


# Hash and equality of keys are documented to run, so they are not among them.
NAMES = """
    __iter__ __len__ __getitem__ __iadd__ __add__ __radd__ __mul__ __float__ __int__ __index__
    __complex__ __bool__ __contains__ __reversed__ __call__ __buffer__ __fspath__ __str__
    __repr__ __format__ __bytes__ __lt__ __gt__ __neg__ __round__ __enter__ __next__
    __length_hint__ __getattr__ __setattr__ __instancecheck__ __missing__ keys items values
    get utcoffset tzname dst fromutc decode encode
"""
METHODS = NAMES.split()


@dataclass(eq=False, repr=False)
class Hostile:
    keys_: list = field(default_factory=list)


@dataclass(eq=False, repr=False, slots=True)
class HostileSlots:
    a: int = 0


HostileTuple = namedtuple("HostileTuple", "a b")


class HostileEnum(Enum):
    A = 1

    @classmethod
    def _missing_(cls, value):
        RAN.append(f"_missing_ {value!r}")


for _name in METHODS:
    for _cls in (Hostile, HostileSlots):
        setattr(_cls, _name, _spy(_name))
    if _name not in ("__getattr__", "__setattr__"):
        setattr(HostileTuple, _name, _spy(_name))


@dataclass
class Hidden:
    """A slot of the parent behind a property of the class."""

    __slots__ = ("a",)
    a: int


class Hiding(Hidden):
    __slots__ = ()

    @property
    def a(self):
        return 1

    @a.setter
    def a(self, value):
        RAN.append(f"setter {value!r}")


def packed(value: object) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def of_class(name: str, rest: bytes) -> bytes:
    full = f"{__name__}:{name}".encode()
    return bytes([len(full)]) + full + rest


def hostile() -> list[msgpack.ExtType]:
    """Instances of the flow's classes, as a forger writes them."""
    return [
        msgpack.ExtType(33, of_class("Hostile", packed({"keys_": [1], "a": 2}))),
        msgpack.ExtType(36, of_class("HostileSlots", packed({"a": 2}))),
        msgpack.ExtType(34, of_class("HostileTuple", packed([1, 2]))),
        msgpack.ExtType(35, of_class("HostileEnum", packed(["A", 1]))),
        msgpack.ExtType(33, of_class("Hiding", packed({"a": 5}))),
    ]


def codes() -> list[int]:
    users = UserClasses(allow_pickle=False, allow_imports=frozenset()).readers
    return [*READERS, *users, COMPACT_STATE]


def data_of(inner: object) -> list[bytes]:
    """The data of an extension, with the value in each place that a reader looks at."""
    arrays = [
        *([inner], [inner, 1], [1, inner], ["int", inner], [None, inner], [1.0, inner]),
        *([inner] * size for size in (3, 4, 5, 8)),
    ]
    maps = [{"a": inner}, {"keys_": inner}, {1: inner}]
    bodies = [packed(inner), *map(packed, arrays), *map(packed, maps)]
    names = ["Hostile", "HostileSlots", "HostileTuple", "HostileEnum", "Hiding"]
    zones = [b"\x07\xe8\x05\x06\x07\x08\x09\0\0\0" + packed(inner), bytes(6) + packed(inner)]
    compact = []
    for place in range(8):
        numbers: list[object] = [0, 0, 0, 0, [], 1, 2, []][: 8 - place % 2]
        numbers[min(place, len(numbers) - 1)] = inner
        compact += [bytes([kind]) + packed(numbers) for kind in (FIXED, SESSIONS, JOIN)]
    return [*bodies, *zones, *compact, *(of_class(n, body) for n in names for body in bodies)]


def read(payload: bytes) -> None:
    for codec in (MSGPACK, MSGPACK_TUPLE):
        try:
            STRICT.decode("k", seal("k", codec, payload))
        except DecodeError:
            continue


def everything() -> list[bytes]:
    """Each extension type in each other, each with an instance of the flow's classes inside."""
    innermost: list[object] = [*hostile(), 5, "x", [], {}]
    payloads = [packed(value) for value in innermost]
    for code in codes():
        for inner in innermost:
            payloads += [packed(msgpack.ExtType(code, data)) for data in data_of(inner)]
    for outer in codes():
        for code in codes():
            for value in hostile()[:2]:
                inside = msgpack.ExtType(code, packed([value]))
                payloads += [packed(msgpack.ExtType(outer, data)) for data in data_of(inside)[:12]]
    return payloads


@pytest.fixture(autouse=True)
def _nothing_ran():
    RAN.clear()
    yield
    RAN.clear()


def test_no_method_of_the_flows_classes_runs_whatever_is_inside_whatever():
    made = everything()
    assert len(made) > 20_000
    for payload in made:
        read(payload)
    assert RAN == []


def test_the_test_would_notice():
    instance = STRICT.decode("k", seal("k", MSGPACK, packed(hostile()[0])))
    assert type(instance) is Hostile
    len(instance)
    assert RAN == ["Hostile.__len__"]


def test_a_slot_is_set_behind_the_property_that_hides_it():
    """So such a class is foreign: its own writer pickles it."""
    codec = Codec(allow_pickle=False).bind(namespace="n", flow_id="f", step="s")
    for code in (33, 36):
        forged = msgpack.ExtType(code, of_class("Hiding", packed({"a": 5})))
        with pytest.raises(DecodeError, match="is not a class that may be rebuilt"):
            codec.decode("k", seal("k", MSGPACK, packed(forged)))
    assert RAN == []
    assert sys.modules[__name__].Hiding is Hiding


def test_what_is_found_instead_is_named():
    told = msgpack.ExtType(10, packed(hostile()[0]))
    with pytest.raises(
        DecodeError, match=r"key 'k': the data of a set holds a value of type Hostile, not a list"
    ):
        STRICT.decode("k", seal("k", MSGPACK, packed(told)))
