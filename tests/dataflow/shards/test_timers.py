"""Notifications come when and in the order they come in stock Bytewax."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow.shards.timers import Timers

Script = list[tuple[float, list[tuple[str, Any]]]]
"""Pause in milliseconds, then items; in the end, one more pause."""


def now() -> datetime:
    return datetime.now(timezone.utc)


class _ScriptPart(StatefulSourcePartition[Any, None]):
    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.wake = now() + timedelta(milliseconds=script[0][0])

    def next_batch(self) -> Iterable[Any]:
        if not self.script:
            raise StopIteration
        _pause, items = self.script.pop(0)
        pause = self.script[0][0] if self.script else 0
        self.wake = now() + timedelta(milliseconds=pause)
        return items

    def next_awake(self) -> datetime | None:
        return self.wake

    def snapshot(self) -> None:
        return None


class ScriptSource(FixedPartitionedSource[Any, None]):
    def __init__(self, script: Script) -> None:
        self.script = script

    def list_parts(self) -> list[str]:
        return ["script"]

    def build_part(self, *_what: Any) -> _ScriptPart:
        return _ScriptPart(self.script)


class Alarm(StatefulBatchLogic[Any, Any, Any]):
    """Does as its values say.

    A number asks for a notification so many milliseconds from now, ``None`` answers ``notify_at``
    with ``None``, ``"drop"`` discards.
    """

    def __init__(self) -> None:
        self.at: datetime | None = None
        self.rung = 0

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        for value in values:
            if value == "drop":
                return ["dropped"], True
            self.at = None if value is None else now() + timedelta(milliseconds=value)
        return ["told"], False

    def on_notify(self) -> tuple[Iterable[Any], bool]:
        self.rung += 1
        self.at = None
        return [f"rung {self.rung}"], False

    def notify_at(self) -> datetime | None:
        return self.at

    def snapshot(self) -> Any:
        return None


def rung(script: Script, *, sharded: bool) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    flow = Dataflow("alarms")
    items = op.input("items", flow, ScriptSource(script))
    rings = op.stateful_batch("alarm", items, lambda _state: Alarm())
    op.output("out", rings, TestingSink(out))
    run_main(shard_stateful_steps(flow, shards=1) if sharded else flow)
    return out


SCRIPTS: dict[str, Script] = {
    "one timer a key": [(0, [("a", 20), ("b", 40)]), (200, [])],
    "a later time replaces an earlier one": [(0, [("a", 100)]), (0, [("a", 150)]), (350, [])],
    "an earlier time replaces a later one": [(0, [("a", 9_000)]), (0, [("a", 20)]), (200, [])],
    "None leaves the time as it is": [(0, [("a", 100)]), (0, [("a", None)]), (300, [])],
    "a discarded key's time is gone": [(0, [("a", 100)]), (0, [("a", "drop")]), (250, [])],
    "a key that comes back starts anew": [
        (0, [("a", 100)]),
        (0, [("a", "drop")]),
        (0, [("a", 120)]),
        (300, []),
    ],
    "a time that has passed": [(0, [("a", -1000), ("b", -2000)]), (150, [])],
    "a time after each batch": [(0, [("a", 5)]), (200, [("a", 5)]), (200, [])],
    "several due at once": [
        (0, [("c", 101), ("a", 103), ("b", 102), ("d", 105)]),
        (0, [("d", 106)]),
        (300, []),
    ],
    "the input ends before": [(0, [("a", 60_000)]), (5, [])],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_notifications_are_as_in_stock(script: Script) -> None:
    def per_key(rings: list[tuple[str, str]]) -> dict[str, list[str]]:
        return {key: [what for of, what in rings if of == key] for key, _what in rings}

    assert per_key(rung(script, sharded=True)) == per_key(rung(script, sharded=False))


def test_due_notifications_ring_in_the_order_of_keys() -> None:
    timers = Timers()
    for key, second in (("c", 1), ("a", 3), ("b", 2), ("d", 9)):
        timers.set(key, datetime(2024, 1, 1, 0, 0, second, tzinfo=timezone.utc))
    assert timers.pop_due(datetime(2024, 1, 1, 0, 0, 5, tzinfo=timezone.utc)) == ["a", "b", "c"]
    assert timers.next() == datetime(2024, 1, 1, 0, 0, 9, tzinfo=timezone.utc)


def test_timers_are_as_a_plain_table_would_have_them() -> None:
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    chance = random.Random(7)
    timers, table = Timers(), dict[str, datetime]()
    for _ in range(5_000):
        key = f"k{chance.randrange(30)}"
        at = start + timedelta(seconds=chance.randrange(1000))
        action = chance.random()
        if action < 0.7:
            timers.set(key, at)
            table[key] = at
        elif action < 0.9:
            timers.drop(key)
            table.pop(key, None)
        else:
            until = start + timedelta(seconds=chance.randrange(150))
            due = sorted(key for key, at in table.items() if at <= until)
            for key in due:
                del table[key]
            assert timers.pop_due(until) == due
        assert timers.next() == min(table.values(), default=None)


def test_moving_a_time_later_again_and_again_does_not_pile_up() -> None:
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    timers = Timers()
    for second in range(10_000):
        timers.set("hot", start + timedelta(seconds=second))
    assert len(timers._heap) == 1
    assert timers.next() == start + timedelta(seconds=9_999)


def test_dropped_keys_take_no_room_until_their_time_comes():
    timers = Timers()
    far = datetime(2100, 1, 1, tzinfo=timezone.utc)
    for number in range(10_000):
        timers.set(f"k{number}", far)
    for number in range(10_000):
        timers.drop(f"k{number}")
        assert len(timers._heap) <= 2 * len(timers._times) + 17
    assert len(timers._queued) <= 17
    assert timers.next() is None
    timers.set("a", far)
    assert ("a" in timers, "k1" in timers, timers.next()) == (True, False, far)


def test_moving_a_time_earlier_again_and_again_does_not_pile_up() -> None:
    timers = Timers()
    far = datetime(2100, 1, 1, tzinfo=timezone.utc)
    timers.set("quiet", far)
    for second in range(10_000):
        timers.set("hot", far - timedelta(seconds=second))
        assert len(timers._heap) <= 2 * len(timers._times) + 17
    assert timers.next() == far - timedelta(seconds=9_999)


def test_keys_that_rang_and_came_once_leave_nothing() -> None:
    start = datetime(2024, 1, 1, tzinfo=timezone.utc)
    timers = Timers()
    for second in range(10_000):
        timers.set(f"k{second}", start + timedelta(seconds=second))
        due = [f"k{second - 5}"] if second >= 5 else []
        assert timers.pop_due(start + timedelta(seconds=second - 5)) == due
    assert len(timers._times) == len(timers._heap) == len(timers._queued) == 5
