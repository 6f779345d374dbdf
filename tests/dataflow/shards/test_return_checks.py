"""What Bytewax takes from a logic is taken, what it refuses is refused, naming step and key."""

from __future__ import annotations

import array
import collections
import re
import types
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource, run_main

from bytewax_redis_state import shard_stateful_steps


class Word(str):
    """A key that is more than a ``str``."""

    def __str__(self) -> str:
        return "something else"


class Odd(str):
    """Equal to any other text."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("a")


class Pair(tuple[Any, ...]):
    pass


class Counted:
    def __getitem__(self, index: int) -> int:
        if index > 1:
            raise IndexError
        return index


def outcome(
    result: Any = ([1], False),
    at: Any = None,
    items: Any = (("a", 1),),
    *,
    sharded: bool,
    builder: Callable[[Any], Any] | None = None,
) -> Any:
    """Give what comes out, or the chain of errors: types, and texts without Rust's line."""

    class Logic(StatefulBatchLogic[Any, Any, Any]):
        def on_batch(self, values: list[Any]) -> Any:
            return result

        def notify_at(self) -> Any:
            return at

        def snapshot(self) -> None:
            return None

    out: list[Any] = []
    flow = Dataflow("flow")
    keyed = op.input("in", flow, TestingSource(items, batch_size=10))
    stepped = op.stateful_batch("step", keyed, builder or (lambda _state: Logic()))
    op.output("out", stepped, TestingSink(out))
    try:
        run_main(shard_stateful_steps(flow) if sharded else flow)
    except BaseException as error:  # noqa: BLE001 - a panic of the engine's is none other
        return _chain(error)
    return [(type(key), str.__str__(key), value) for key, value in out]


def _chain(error: BaseException | None) -> list[tuple[type, str]]:
    chain = []
    while error is not None:
        text = str(error).split("): ", 1)[-1]
        # Rust names some classes with their module and some without.
        chain.append((type(error), re.sub(r"got a `[\w.]*?(\w+)`", r"got a `\1`", text)))
        error = error.__cause__
    return chain


EMITS = {
    "list": [1],
    "tuple": (1,),
    "nothing": [],
    "bytes": b"ab",
    "range": range(2),
    "deque": collections.deque([1]),
    "array": array.array("i", [1]),
    "getitem": Counted(),
    "chainmap": collections.ChainMap({0: 2}),
    "text": "ab",
    "word": Word("ab"),
    "set": {1},
    "dict": {1: 2},
    "generator": (number for number in range(2)),
    "mapping": types.MappingProxyType({1: 2}),
    "keys": {1: 2}.keys(),
    "none": None,
}
RESULTS = {
    **{f"emit {name}": (emit, False) for name, emit in EMITS.items()},
    "list for a pair": [[1], False],
    "three": ([1], False, 1),
    "one": ([1],),
    "nothing at all": None,
    "own pair": Pair(([1], False)),
    "zero for false": ([1], 0),
    "none for false": ([1], None),
    "complete": ([1], True),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())
def test_results_are_taken_or_refused_as_in_stock(result: Any) -> None:
    stock = outcome(result, sharded=False)
    ours = outcome(result, sharded=True)
    if stock and issubclass(stock[0][0], BaseException):
        # The engine's own words about the shard come first, its type error last.
        assert ours[1 : len(stock) - 1] == [stock[0], *stock[2:-1]]
    else:
        assert ours == stock


AWARE = datetime(2100, 1, 1, tzinfo=timezone.utc)
TIMES = {
    "utc": AWARE,
    "another name of utc": AWARE.replace(tzinfo=timezone(timedelta(0), "Z")),
    "the last": datetime.max.replace(tzinfo=timezone.utc),
    "none": None,
    "naive": datetime(2100, 1, 1),
    "another zone": AWARE.replace(tzinfo=timezone(timedelta(hours=1))),
    "zone info": AWARE.replace(tzinfo=ZoneInfo("UTC")),
    "number": 5,
    "date": AWARE.date(),
}


@pytest.mark.parametrize("at", TIMES.values(), ids=TIMES.keys())
def test_times_are_taken_or_refused_as_in_stock(at: Any) -> None:
    stock = outcome(at=at, sharded=False)
    ours = outcome(at=at, sharded=True)
    if len(stock) > 1:
        assert ours[1][1] == stock[0][1].replace("in ", "in step ", 1)
        assert ours[2] == stock[1]
    else:
        assert ours == stock


ITEMS: dict[str, Any] = {
    "pair": ("a", 1),
    "own pair": Pair(("a", 1)),
    "word": (Word("a"), 1),
    "odd": (Odd("b"), 1),
    "number": 5,
    "one": ("a",),
    "three": ("a", 1, 2),
    "list": ["a", 1],
    "text": "ab",
    "number for a key": (1, 2),
    "bytes for a key": (b"a", 1),
    "none for a key": (None, 1),
    "list for a key": ([], 1),
    "half a character": ("\ud800", 1),
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
def test_items_are_taken_or_refused_as_in_stock(item: Any) -> None:
    items = [("a", 0), item, ("b", 2)]
    stock = outcome(items=items, sharded=False)
    ours = outcome(items=items, sharded=True)
    if issubclass(stock[0][0], BaseException):
        assert [kind for kind, _text in ours] == [TypeError]
        assert _told(ours).replace("flow.step.shards", "flow.step") == _told(stock)
    else:
        assert sorted(ours) == sorted(stock)
        assert {kind for kind, _key, _value in ours} == {str}


def _told(chain: list[tuple[type, str]]) -> str:
    return chain[0][1].split(") ", 1)[1].split("\n")[0]


def test_what_a_logic_raises_names_the_users_step_and_key() -> None:
    class Failing(StatefulBatchLogic[Any, Any, Any]):
        def on_batch(self, values: list[Any]) -> Any:
            raise ValueError("no")

        def snapshot(self) -> None:
            return None

    chain = outcome(sharded=True, builder=lambda _state: Failing())
    stock = outcome(sharded=False, builder=lambda _state: Failing())
    assert chain[1:] == stock


@pytest.mark.parametrize("built", [5, None])
def test_what_is_no_logic_is_refused(built: Any) -> None:
    chain = outcome(sharded=True, builder=lambda _state: built)
    assert chain[1][1] == 'error calling `builder` in step "flow.step" for key "a"'
    assert chain[2:] == outcome(sharded=False, builder=lambda _state: built)
