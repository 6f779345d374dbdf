import enum
import math
import operator
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID, SafeUUID, uuid4
from zoneinfo import ZoneInfo

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgpack
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators import _CollectState, _JoinState
from bytewax.operators.windowing import (
    EventClock,
    SessionWindower,
    SlidingWindower,
    SystemClock,
    TumblingWindower,
    _WindowLogic,
    _WindowSnapshot,
)
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import example, given
from hypothesis import strategies as st

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import MSGPACK, OVERHEAD, PICKLE, open_envelope, seal
from bytewax_redis_state.codec.user_classes import DATACLASS
from bytewax_redis_state.errors import DecodeError, EncodeError

PLACE = {"namespace": "bytewax", "flow_id": "orders", "step": "sum"}
ANY = Codec().bind(**PLACE)
DEADLINES = st.none() | st.integers(0, 2**48 - 1)
STRICT = Codec(allow_pickle=False).bind(**PLACE)
HERE = sys.modules[__name__]
UTC = timezone.utc
NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias is the point
    BLUE = ("deep", "blue")


class Level(enum.IntEnum):
    LOW = 1


class Name(str, enum.Enum):
    ANN = "ann"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class MyStr(str):
    pass


class MyInt(int):
    pass


class MyDict(dict):
    pass


class MyList(list):
    pass


class MyTuple(tuple):
    pass


class MyDatetime(datetime):
    pass


Point = namedtuple("Point", "x y")


class Place(NamedTuple):
    name: str
    at: Any = None


@dataclass
class Order:
    amount: int
    tags: list = field(default_factory=list)
    note: Any = None

    def __post_init__(self):
        if self.amount == 13:
            raise AssertionError("__post_init__ ran")

    @cached_property
    def double(self):
        return self.amount * 2


@dataclass(frozen=True)
class Coin:
    value: int
    of: Any = None


@dataclass(frozen=True, slots=True)
class Slim:
    value: Any
    other: Any = 0


@dataclass(slots=True)
class Loose:
    value: Any


@dataclass
class Reduced:
    value: int

    def __reduce__(self):
        return Reduced, (self.value,)


@dataclass
class Deleting:
    value: int

    def __del__(self):
        pass


@dataclass
class Mapped(dict):
    value: int = 0


class Plain:
    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Plain and self.value == other.value

    __hash__ = None


class Outer:
    @dataclass
    class Inner:
        value: int


def assert_same(a: Any, b: Any) -> None:
    """Compare values and exact types, all the way down."""
    assert type(a) is type(b)
    if isinstance(a, complex):
        assert_same([a.real, a.imag], [b.real, b.imag])
    elif isinstance(a, float):
        assert (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    elif is_dataclass(a):
        names = [f.name for f in fields(a)]
        assert_same([getattr(a, n) for n in names], [getattr(b, n) for n in names])
        assert getattr(a, "__dict__", {}).keys() == getattr(b, "__dict__", {}).keys()
    elif isinstance(a, dict):
        assert_same([*a.items()], [*b.items()])
        assert getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
    elif isinstance(a, (list, tuple, deque)):
        assert len(a) == len(b)
        assert getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (set, frozenset)):
        assert a == b
        assert sorted(map(repr, map(type, a))) == sorted(map(repr, map(type, b)))
    elif isinstance(a, (datetime, time)):
        assert (a, a.fold, repr(a.tzinfo)) == (b, b.fold, repr(b.tzinfo))
        assert type(a.tzinfo) is type(b.tzinfo)
    elif isinstance(a, Decimal):
        assert a.as_tuple() == b.as_tuple()
    elif isinstance(a, UUID):
        assert (a, a.is_safe) == (b, b.is_safe)
    else:
        assert a == b


def codec_of(data):
    return open_envelope("k", data).codec


def assert_round_trip(value, codec=STRICT):
    data = codec.encode("k", value)
    assert_same(codec.decode("k", data), value)
    assert codec.encode_all([("a", 1), ("k", value)])["k"] == data
    return data


# --- what msgpack holds


ZONES = st.none() | st.sampled_from(
    [
        UTC,
        timezone(timedelta(hours=-3, minutes=-30)),
        timezone(timedelta(hours=2), "here"),
        timezone(timedelta(0), "nought"),
        ZoneInfo("Europe/Berlin"),
        ZoneInfo("America/New_York"),
    ]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
HASHABLE_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary()
    | st.datetimes(timezones=ZONES, allow_imaginary=True)
    | st.dates()
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.sampled_from([*Colour, *Level, *Name, *Right])
)
SCALARS = (
    HASHABLE_SCALARS
    | st.floats()
    | st.binary().map(bytearray)
    | st.decimals()
    | st.complex_numbers()
)
KEYS = st.recursive(
    HASHABLE_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Coin, st.integers(), inner)
    ),
    max_leaves=4,
)


def containers(inner):
    lists = st.lists(inner, max_size=4)
    maps = st.dictionaries(KEYS, inner, max_size=4)
    return (
        lists
        | maps
        | lists.map(tuple)
        | st.sets(KEYS, max_size=4)
        | st.builds(deque, lists, st.none() | st.just(9))
        | maps.map(OrderedDict)
        | st.builds(defaultdict, st.sampled_from([None, int, list, dict, deque]), maps)
        | st.lists(KEYS, max_size=4).map(Counter)
        | st.builds(Point, inner, inner)
        | st.builds(Place, TEXTS, inner)
        | st.builds(Order, st.integers(14), lists, inner)
        | st.builds(Coin, st.integers(), inner)
        | st.builds(Slim, inner)
        | st.builds(Loose, inner)
    )


@given(st.recursive(SCALARS | KEYS, containers, max_leaves=20))
@example([bytearray(b"x"), (bytearray(b"y"), {"a": [bytearray()]})])
@example({(1, (2, frozenset([3]))): {1: True, "1": 1.0}})
def test_a_value_comes_back_equal_and_of_equal_types(value):
    data = ANY.encode("k", value)
    assert_same(ANY.decode("k", data), value)


@given(st.lists(st.recursive(SCALARS | KEYS, containers, max_leaves=5), max_size=8), DEADLINES)
@example([1, "\ud800", 2, ("\ud800",), (3,), {"a": "\ud800"}, [], 1 << 70, None], 7)
def test_many_values_are_encoded_as_each_of_them(values, deadline):
    states = {f"k{number}": value for number, value in enumerate(values)}
    data = ANY.encode_all(states.items(), deadline)
    assert data == {key: ANY.encode(key, value, deadline) for key, value in states.items()}


def test_a_value_of_many_that_can_not_be_encoded_is_named():
    with pytest.raises(EncodeError, match="'b'"):
        STRICT.encode_all([("a", 1), ("b", "\ud800"), ("c", 2)])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**500,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        "",
        "ü€😀\0",
        b"",
        bytearray(b"x"),
        [bytearray(b"x"), b"x"],
        {"a": (bytearray(b"x"),)},
        Order(1, [bytearray(b"x")], bytearray()),
        (),
        (1,),
        [(), [], {}, set(), frozenset(), deque()],
        ((1, 2), [3, (4,)]),
        {1: 2, "1": 3, None: 4, 2.5: 5, b"x": 6, (1, 2): 7, frozenset([1]): 8},
        {"b": 1, "a": 2},
        {Colour.RED: Colour.BLUE},
        [Colour.CRIMSON, Level.LOW, Name.ANN, Right.READ],
        datetime.min,
        datetime.max,
        datetime(2024, 10, 27, 2, 30, fold=1),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        NOW.astimezone(timezone(timedelta(microseconds=1))),
        date.max,
        time(1, 2, 3, 4, tzinfo=UTC, fold=1),
        timedelta.min,
        timedelta.max,
        timedelta(microseconds=-1),
        [UTC, timezone(timedelta(hours=1), "x"), ZoneInfo("UTC")],
        [Decimal(text) for text in ("-0", "1.10", "1E+30", "NaN", "sNaN12", "-Infinity", "0E-9")],
        UUID(int=5),
        UUID(int=5, is_safe=SafeUUID.safe),
        UUID(int=5, is_safe=SafeUUID.unsafe),
        1 - 2j,
        deque([1, [2]], maxlen=3),
        OrderedDict(b=1, a=2),
        Counter("hello"),
        Counter({"a": -1, "b": 0}),
        defaultdict(list, {"a": [1]}),
        defaultdict(None, {"a": [1]}),
        Point(1, (2,)),
        [Place("x"), Place("y", {1})],
        Order(13 - 1, ["x"], {"a": (1,)}),
        [Coin(1), Coin(1)],
        Slim([1]),
        Loose(Loose(None)),
        Outer.Inner(3),
        list(range(100_000)),
        "x" * 3_000_000,
        {"deep": [[[[{"a": [()]}]]]]},
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:30]}",
)
def test_msgpack_holds_it_exactly(value):
    data = assert_round_trip(value)
    assert codec_of(data) != PICKLE


def test_nothing_of_a_class_runs_on_reading():
    data = STRICT.encode("k", Order(12)).replace(b"\x0c", b"\x0d")
    data = seal("k", MSGPACK, data[OVERHEAD:])
    assert STRICT.decode("k", data).amount == 13


def test_extra_attributes_and_missing_ones_are_kept():
    order = Order(5)
    assert order.double == 10
    order.extra = [1]
    del order.note
    back = STRICT.decode("k", STRICT.encode("k", order))
    assert back.__dict__ == {"amount": 5, "tags": [], "double": 10, "extra": [1]}


def test_a_namedtuple_that_got_a_field_takes_its_default(monkeypatch):
    data = STRICT.encode("k", Place("x", 1))
    longer = namedtuple("Place", "name at rank", defaults=[0, 7], module=__name__)
    monkeypatch.setattr(HERE, "Place", longer)
    assert Codec(allow_pickle=False).bind(**PLACE).decode("k", data) == ("x", 1, 7)
    shorter = namedtuple("Place", "name", module=__name__)
    monkeypatch.setattr(HERE, "Place", shorter)
    with pytest.raises(DecodeError, match="Place has 1 fields, not 2"):
        Codec(allow_pickle=False).bind(**PLACE).decode("k", data)


@pytest.mark.parametrize(
    ("value", "golden"),
    [
        (None, "00c0"),
        (5, "0005"),
        (2**64, "00c70902000000000000000001"),
        ("ab", "00a26162"),
        (b"ab", "00c4026162"),
        ((1, 2.5), "019201cb4004000000000000"),
        ([(1,)], "0091d5019101"),
        (bytearray(b"a"), "00d40361"),
        (datetime(2024, 5, 6, 7, 8, 9, 10), "00c70a0407e8050607080900000a"),
        (datetime(2024, 5, 6, tzinfo=UTC), "00c70b0407e80506000000000000" + b"Z".hex()),
        (date(2024, 5, 6), "00d60507e80506"),
        (time(1, 2, 3), "00c70606010203000000"),
        (timedelta(seconds=1), "00c7030740420f"),
        (Decimal("1.5"), "00c70308312e35"),
        (UUID(int=1), "00d80900000000000000000000000000000001"),
        ({1}, "00d50a9101"),
        (frozenset([1]), "00d50b9101"),
        (deque([1], 2), "00c7030c920201"),
        (OrderedDict(a=1), "00d60d81a16101"),
        (Counter("a"), "00d60e81a16101"),
        (defaultdict(int, {1: 2}), "00d70f92a3696e74810102"),
        (1j, "00c71310" + msgpack.packb([0.0, 1.0]).hex()),
        (ZoneInfo("UTC"), "00c70312" + b"UTC".hex()),
        (timezone(timedelta(0), "x"), "00c7061192d40700a178"),
        (win._SlidingWindowerState({}), "00c70b21010381a66f70656e656480"),
        (_JoinState([[1]]), "00c70b21010581a47365656e919101"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bytes_are_fixed(value, golden):
    data = STRICT.encode("k", value)
    assert (data[1:2] + data[OVERHEAD:]).hex() == golden
    assert_same(STRICT.decode("k", data), value)


# --- what goes to pickle


FOREIGN = [
    MyStr("x"),
    MyInt(5),
    MyDict(a=1),
    MyList([1]),
    MyTuple([1]),
    MyDatetime(2024, 1, 1),
    Plain(5),
    Reduced(5),
    Deleting(5),
    Mapped(5),
    range(5),
    "\ud800",
    {"\ud800": 1},
    Right.READ | Right.WRITE,
    UserDict(a=1),
    defaultdict(Plain),
    msgpack.Timestamp(1, 2),
    msgpack.ExtType(1, b"\x90"),
    operator.add,
    int,
    ...,
]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: (1, {"a": Coin(1, v)})])
def test_a_foreign_value_is_pickled_never_flattened(value, wrap):
    value = wrap(value)
    data = ANY.encode("k", value)
    assert ANY.encode_all([("k", value), ("a", (1,))], 5) == {
        "k": ANY.encode("k", value, 5),
        "a": ANY.encode("a", (1,), 5),
    }
    assert codec_of(data) == PICKLE
    back = ANY.decode("k", data)
    assert type(back) is type(value)
    assert back == value
    with pytest.raises(EncodeError, match="allow_pickle is False"):
        STRICT.encode("k", value)
    with pytest.raises(DecodeError, match=r"'sum'.*'k'.*pickle, and allow_pickle is False"):
        STRICT.decode("k", data)


def nested_lists(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def nested_tuples(depth):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize("value", [nested_lists(490), nested_tuples(60)])
def test_deep_values_fit_msgpack(value):
    assert codec_of(STRICT.encode("k", value)) != PICKLE
    assert STRICT.decode("k", STRICT.encode("k", value)) == value


@pytest.mark.parametrize("value", [nested_lists(550), nested_tuples(100)])
def test_deeper_values_are_pickled_as_deep_as_python_lets_it(value):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    try:
        data = ANY.encode("k", value)
        assert codec_of(data) == PICKLE
        assert pickle.dumps(ANY.decode("k", data)) == pickle.dumps(value)
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("depth", [*range(495, 515), *range(1020, 1030)])
def test_a_value_too_deep_to_be_read_is_never_written(depth):
    try:
        data = ANY.encode("k", nested_lists(depth))
    except EncodeError:
        return
    assert ANY.decode("k", data) == nested_lists(depth)


@pytest.mark.parametrize("make", [nested_lists, nested_tuples])
def test_bottomless_values_are_our_error(make):
    with pytest.raises(EncodeError, match="RecursionError"):
        ANY.encode("k", make(100_000))


def test_a_cycle_comes_back_as_a_cycle():
    value = {"a": []}
    value["a"].append(value)
    back = ANY.decode("k", ANY.encode("k", value))
    assert back["a"][0] is back
    with pytest.raises(EncodeError, match="reached twice"):
        STRICT.encode("k", value)


def test_a_cycle_of_frozen_instances_ends():
    coin = Coin(1)
    object.__setattr__(coin, "of", coin)
    back = ANY.decode("k", ANY.encode("k", coin))
    assert back.of is back
    with pytest.raises(EncodeError, match="nested deeper"):
        STRICT.encode("k", coin)


def shared(inner):
    return [
        [inner, inner],
        {"a": inner, "b": [inner]},
        (inner, (inner,)),
        [(pair := (inner,)), pair],
        [(deep := ((inner,),)), [deep]],
        [(coin := Coin(1, inner)), coin],
        Order(1, inner, inner),
        deque([inner, Point(1, inner)]),
    ]


@pytest.mark.parametrize(
    "inner", [[], {}, set(), bytearray(b"x"), deque(), Order(1), Loose(1), Counter("a")], ids=repr
)
def test_a_shared_mutable_value_stays_shared(inner):
    for value in shared(inner):
        data = ANY.encode("k", value)
        assert codec_of(data) == PICKLE
        expected = pickle.loads(pickle.dumps(value, 5))
        assert pickle.dumps(ANY.decode("k", data), 5) == pickle.dumps(expected, 5)
        with pytest.raises(EncodeError, match=r"reached twice \(shared, or a cycle\)"):
            STRICT.encode("k", value)


@pytest.mark.parametrize(
    "inner", [(), (1, (2, 3)), frozenset([(1,)]), Coin(1, (2, (3,))), NOW, 10**30], ids=repr
)
def test_a_shared_immutable_value_needs_no_pickle(inner):
    for value in (*shared(inner)[:6], Order(1, [inner], inner)):
        assert_round_trip(value)


# --- errors


def test_an_error_names_step_key_type_and_path():
    value = {"a": [1, 2, 3, Order(1, [Plain(threading.Lock())])]}
    with pytest.raises(EncodeError) as error:
        ANY.encode("user42", value)
    path = "value['a'][3].tags[0].value"
    assert f"step 'sum', key 'user42': {path} of type _thread.lock can't be" in str(error.value)
    with pytest.raises(EncodeError) as error:
        STRICT.encode("user42", value)
    assert "value['a'][3].tags[0] of type" in str(error.value)
    assert ".Plain is of a foreign class" in str(error.value)


def test_a_local_class_is_our_error():
    @dataclass
    class Local:
        value: int

    with pytest.raises(EncodeError, match=r"value\[0\] of type .*Local can't be pickled"):
        ANY.encode("k", [Local(1)])


def test_a_memoryview_is_refused_not_flattened():
    for value in (memoryview(b"x"), [memoryview(b"x")], (1, [memoryview(b"x")])):
        with pytest.raises(EncodeError, match="memoryview"):
            ANY.encode("k", value)


def test_a_zone_of_its_own_goes_to_pickle():
    value = datetime(2024, 1, 1, tzinfo=ZoneInfo.no_cache("Europe/Berlin"))
    assert codec_of(ANY.encode("k", value)) == PICKLE

    class Zone(tzinfo):
        pass

    with pytest.raises(EncodeError):
        ANY.encode("k", datetime(2024, 1, 1, tzinfo=Zone()))


SEALED = STRICT.encode("user42", {"a": (1, NOW), "b": Order(1)})


@pytest.mark.parametrize("position", range(len(SEALED)))
def test_a_flip_of_any_byte_is_refused(position):
    data = bytearray(SEALED)
    data[position] ^= 0xFF
    with pytest.raises(DecodeError, match=r"step 'sum'.*key 'user42'"):
        ANY.decode("user42", bytes(data))


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_every_truncation_is_refused(length):
    with pytest.raises(DecodeError, match=r"step 'sum'.*key 'user42'"):
        ANY.decode("user42", SEALED[:length])


@given(st.binary(max_size=40), st.integers(0, 2))
@example(b"\xd4\x7f\x00", MSGPACK)
@example(b"\xd4\x22\x00", MSGPACK)
@example(b"\x81\x90\x01", MSGPACK)
@example(b"", MSGPACK)
@example(b"\x01\x02", MSGPACK)
def test_a_payload_of_any_bytes_is_a_value_or_our_error(payload, codec):
    try:
        STRICT.decode("k", seal("k", codec, payload))
    except DecodeError as error:
        assert "step 'sum', key 'k'" in str(error)  # noqa: PT017 - a value is fine too


@pytest.mark.parametrize("payload", [b"\xd4\x7f\x00", b"\xd5\x22\x01\xff"])
def test_an_unknown_extension_or_class_number_is_of_a_newer_version(payload):
    with pytest.raises(DecodeError, match="written by a newer version"):
        ANY.decode("k", seal("k", MSGPACK, payload))


def test_a_failing_unpickle_is_our_error():
    data = seal("k", PICKLE, b"cno_such_module\nname\n.")
    with pytest.raises(DecodeError, match="ModuleNotFoundError") as error:
        ANY.decode("k", data)
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_a_class_that_is_gone_is_our_error(monkeypatch):
    data = STRICT.encode("k", Order(1))
    monkeypatch.delattr(HERE, "Order")
    with pytest.raises(DecodeError, match=r"there is no class .*Order"):
        Codec().bind(**PLACE).decode("k", data)


# --- what may be rebuilt


def named(module, qualname, state, code=DATACLASS):
    name = f"{module}:{qualname}".encode()
    data = bytes([len(name)]) + name + state
    return seal("k", MSGPACK, msgpack.packb(msgpack.ExtType(code, data)))


NO_FIELDS = msgpack.packb({})


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        (__name__, "Plain"),
        (__name__, "Reduced"),
        (__name__, "Deleting"),
        (__name__, "Mapped"),
        (__name__, "Point"),
        (__name__, "Colour"),
        (__name__, "Codec"),
        (__name__, "Outer.__dict__"),
        (__name__, "NOW"),
        (__name__, "Order.double"),
        (__name__, "missing"),
        (__name__, ""),
        ("builtins", "object"),
        ("builtins", "eval"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("subprocess", "CompletedProcess"),
    ],
)
def test_only_plain_data_classes_are_rebuilt(module, qualname):
    with pytest.raises(DecodeError, match=r"is not a class that may be|there is no class"):
        STRICT.decode("k", named(module, qualname, NO_FIELDS))


@pytest.mark.parametrize(
    ("module", "qualname"),
    [
        ("builtins", "object"),
        ("builtins", "eval"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("subprocess", "CompletedProcess.__class__"),
        (__name__, "Order.__class__"),
        (__name__, "Order.double"),
        (__name__, "subprocess.Popen"),
        (__name__, "NOW"),
    ],
)
def test_no_class_of_the_library_is_rebuilt_where_pickle_is_allowed(module, qualname):
    with pytest.raises(DecodeError, match=r"is not a class that may be|there is no class"):
        ANY.decode("k", named(module, qualname, NO_FIELDS))


def test_a_slot_is_set_by_its_own_name_only():
    for name in ("__class__", "nothing"):
        with pytest.raises(DecodeError, match="has no slot"):
            STRICT.decode("k", named(__name__, "Loose", msgpack.packb({name: 1})))


LOADING = """
import sys
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import DecodeError
codec = Codec({arguments}).bind(namespace="n", flow_id="f", step="s")
try:
    print(codec.decode("k", bytes.fromhex("{data}")))
except DecodeError as error:
    print(error)
print("loaded" if "{module}" in sys.modules else "not loaded")
"""


def load_elsewhere(tmp_path, arguments, data, module="outsider"):
    (tmp_path / "outsider.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Thing:\n    a: int = 0\n"
    )
    script = LOADING.format(arguments=arguments, data=data.hex(), module=module)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


THING = named("outsider", "Thing", msgpack.packb({"a": 5}))


def test_a_module_is_not_imported_unless_it_is_allowed(tmp_path):
    out = load_elsewhere(tmp_path, "allow_pickle=False", THING)
    assert "'outsider' is neither loaded nor in allow_imports" in out
    assert "\nnot loaded" in out


@pytest.mark.parametrize("arguments", ["", 'allow_pickle=False, allow_imports={"outsider"}'])
def test_an_allowed_module_is_imported(tmp_path, arguments):
    assert load_elsewhere(tmp_path, arguments, THING) == "Thing(a=5)\nloaded\n"


def test_window_state_is_read_without_bytewax_loaded(tmp_path):
    data = STRICT.encode("k", win.WindowMetadata(NOW, NOW))
    out = load_elsewhere(tmp_path, "allow_pickle=False", data, "bytewax.operators.windowing")
    assert out.startswith("WindowMetadata(open_time=datetime")
    assert out.endswith("\nloaded\n")


def test_the_codec_package_never_imports_bytewax_or_redis():
    script = (
        "import sys, bytewax_redis_state.codec.codec, bytewax_redis_state.codec.delta\n"
        "print({'bytewax', 'redis'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# --- Bytewax's own states


CLOCKS = {
    "system": SystemClock(),
    "event": EventClock(
        operator.itemgetter(1), wait_for_system_duration=timedelta(0), now_getter=lambda: NOW
    ),
}
WINDOWERS = {
    "tumbling": TumblingWindower(length=timedelta(minutes=1), align_to=NOW),
    "sliding": SlidingWindower(
        length=timedelta(minutes=1), offset=timedelta(seconds=20), align_to=NOW
    ),
    "session": SessionWindower(gap=timedelta(seconds=30)),
}
ITEMS = [(amount, NOW + timedelta(seconds=amount)) for amount in (90, 1, 25, 200, 60, 61)]


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("windower", WINDOWERS)
@pytest.mark.parametrize("operation", ["fold", "collect", "join"])
def test_real_window_snapshots_come_back(clock, windower, operation, monkeypatch):
    snapshots = []

    def snapshot(self, inner=_WindowLogic.snapshot):
        snapshots.append(inner(self))
        return snapshots[-1]

    # What a window keeps can't be seen from outside, so the engine's own call is listened to.
    monkeypatch.setattr(_WindowLogic, "snapshot", snapshot)
    collect_windows(CLOCKS[clock], WINDOWERS[windower], operation)
    assert any(snapshot.logic_states for snapshot in snapshots)
    for value in snapshots:
        assert type(value) is _WindowSnapshot
        assert_round_trip(value)


def collect_windows(clock, windower, operation):
    flow = Dataflow("windows")
    keyed = op.key_on("key", op.input("in", flow, TestingSource(ITEMS, 1)), lambda _: "k")
    if operation == "fold":
        out = win.fold_window("w", keyed, clock, windower, list, add, operator.add)
    elif operation == "collect":
        out = win.collect_window("w", keyed, clock, windower)
    else:
        out = win.join_window("w", clock, windower, keyed, keyed)
    op.output("out", out.down, TestingSink([]))
    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(folder, 1)
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(folder))


def add(acc, item):
    return [*acc, item]


@pytest.mark.parametrize(
    "value",
    [
        _JoinState([[1], [], [(2, "x")]]),
        _CollectState([1, (2,)], NOW),
        _CollectState(),
    ],
    ids=repr,
)
def test_other_operator_states_come_back(value):
    assert_round_trip(value)


def test_every_known_class_still_exists():
    from bytewax_redis_state.codec.user_classes import _KNOWN

    for module, qualname in _KNOWN:
        assert is_dataclass(getattr(sys.modules[module], qualname))


# --- many threads


def test_threads_share_a_codec():
    values = [
        {"id": n, "at": NOW, "pairs": [(n, (n, {n}))], "order": Order(n, [Slim((n,))])}
        for n in range(100, 140)
    ]
    expected = [STRICT.encode("k", value) for value in values]
    failures = []

    def work(start):
        for turn in range(150):
            at = (start + turn) % len(values)
            data = STRICT.encode("k", values[at])
            if data != expected[at] or STRICT.decode("k", data) != values[at]:
                failures.append(at)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(n * 5,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures


def test_a_failed_value_leaves_no_trace_in_the_next():
    for _ in range(3):
        with pytest.raises(EncodeError):
            STRICT.encode("k", [1, (2, ({"\ud800"},))])
        assert_round_trip([1, (2, ({"x"},))])


def test_a_random_uuid_comes_back():
    assert_round_trip({uuid4(): [uuid4()]})
