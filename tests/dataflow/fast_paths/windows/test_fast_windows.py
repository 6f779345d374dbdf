"""Windows on the fast path against Bytewax's own logics, second by second.

Time stands still between whole seconds, and so do all times of values and windows: what the engine
would do at once happens in the same second, and what comes out in which second is compared.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow, Operator
from bytewax.errors import BytewaxRuntimeError
from bytewax.testing import TestingSink, TestingSource
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from bytewax_redis_state.dataflow.fast_paths.windows import (
    window_config,
    window_shard,
    window_timers,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_shard import WindowShard
from bytewax_redis_state.dataflow.shards import deferred_window
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard import Shard
from bytewax_redis_state.dataflow.steps import kind_of
from tests.dataflow.deltas import changes_of
from tests.dataflow.recording import RecordingCodec

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
LATER = NOON + 10**6 * SECOND


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class Wall:
    """A system's clock that only a test moves."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time


WALL = Wall()


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (deferred_window, window_timers, window_config, window_shard):
        monkeypatch.setattr(module, "_get_system_utc", WALL)


def of_wall() -> datetime:
    """Tell the wall's time, as a clock of the user's own that nobody can foretell."""
    return WALL.time


CLOCKS: dict[str, dict[str, Any]] = {
    "the system's": {"now_getter": WALL},
    "the user's": {"now_getter": of_wall},
    "frozen": {"now_getter": lambda: NOON},
    "frozen, never notified": {"now_getter": lambda: NOON, "to_system_utc": lambda _at: None},
    "the user's, in UTC": {
        "now_getter": of_wall,
        "to_system_utc": lambda at: at.astimezone(timezone.utc),
    },
    "notified late": {"now_getter": of_wall, "to_system_utc": lambda at: at + seconds(7)},
    "notified for some": {
        "now_getter": of_wall,
        "to_system_utc": lambda at: at if at.second % 3 else None,
    },
}
WINDOWERS: dict[str, Any] = {
    "tumbling": win.TumblingWindower(length=seconds(10), align_to=NOON),
    "tumbling, aligned later": win.TumblingWindower(length=seconds(7), align_to=LATER),
    "sliding": win.SlidingWindower(length=seconds(10), offset=seconds(4), align_to=NOON),
    "sliding, aligned later": win.SlidingWindower(
        length=seconds(9), offset=seconds(3), align_to=LATER
    ),
    "tumbling, in Berlin": win.TumblingWindower(
        length=seconds(1800), align_to=NOON.astimezone(BERLIN)
    ),
    "sessions": win.SessionWindower(gap=seconds(3)),
    "sessions, a long gap": win.SessionWindower(gap=seconds(9)),
    "sessions, no gap": win.SessionWindower(gap=seconds(0)),
    "side by side": win.SlidingWindower(length=seconds(5), offset=seconds(5), align_to=NOON),
}


ANY_ZONE = ("frozen, never notified", "the user's, in UTC")
"""Clocks that ask the engine for times in UTC only, as it wants them."""
ZONES: dict[str, list[tzinfo]] = {
    "UTC": [timezone.utc],
    "two hours ahead": [timezone(2 * HOUR)],
    "Berlin": [BERLIN],
    "all of them": [BERLIN, timezone.utc, timezone(2 * HOUR)],
}


def in_place(held: list[Any], value: Any) -> list[Any]:
    held.append(value[1])
    return held


OPERATORS: dict[str, Any] = {
    "count_window": lambda *parts: win.count_window(*parts, lambda item: item[0]),
    "fold_window": lambda *parts: win.fold_window(
        *parts, list, lambda old, value: [*old, value[1]], list.__add__
    ),
    "fold_window, unordered": lambda *parts: win.fold_window(
        *parts, list, in_place, list.__add__, ordered=False
    ),
    "reduce_window": lambda *parts: win.reduce_window(*parts, lambda a, b: (b[0], a[1] * 3 + b[1])),
    "collect_window": lambda *parts: win.collect_window(*parts),
    "collect_window, unordered": lambda *parts: win.collect_window(*parts, ordered=False),
    "collect_window, a dict": lambda *parts: win.collect_window(*parts, dict),
    "max_window": lambda *parts: win.max_window(*parts, by=lambda value: value[1] % 5),
    "min_window": lambda *parts: win.min_window(*parts),
}


def timestamp(value: Any) -> datetime:
    # count_window hands over the whole item, the others its value.
    at: datetime = value[1][0] if isinstance(value[0], str) else value[0]
    return at


def path_to_keyed(substeps: Iterable[Operator], above: tuple[Operator, ...] = ()) -> Any:
    for step in substeps:
        if kind_of(step) == "keyed":
            return (*above, step)
        if found := path_to_keyed(step.substeps, (*above, step)):
            return found
    return None


def step_of(operator: str, windower: Any, clock: Any) -> Sequence[Any]:
    """Give the operators around the core step of a window, and itself."""
    flow = Dataflow("flow")
    items: Any = op.input("items", flow, TestingSource([]))
    out = OPERATORS[operator]("step", items, clock, windower)
    op.output("out", out.down, TestingSink([]))
    path: Sequence[Any] = path_to_keyed(flow.substeps)
    return path


@dataclass
class Case:
    """A step, and what it is made of."""

    operator: str
    windower: str
    clock: str
    wait: int
    zone: str

    def step(self) -> Sequence[Any]:
        clock = win.EventClock(timestamp, seconds(self.wait), **CLOCKS[self.clock])
        name = (
            self.windower if self.clock in ANY_ZONE else self.windower.removesuffix(", in Berlin")
        )
        return step_of(self.operator, WINDOWERS[name], clock)

    def value(self, key: str, at: datetime, number: int) -> Any:
        zones = ZONES[self.zone if self.clock in ANY_ZONE else "UTC"]
        zone = zones[number % len(zones)]
        value = (at.astimezone(zone), number)
        return (key, value) if self.operator.startswith("count") else value


class StockFailedError(Exception):
    """Bytewax itself gives up."""


Events = dict[str, list[str]]
"""What came out for each key, in order."""


class Stock:
    """Bytewax's own logics, and the engine's times for them."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.logics: dict[str, Any] = {}
        self.times: dict[str, datetime] = {}
        self.touched: set[str] = set()

    def _keep(self, key: str, emit: Iterable[Any], is_complete: bool, out: Events) -> None:
        for event in emit:
            out.setdefault(key, []).append(repr(event))
        if is_complete:
            del self.logics[key]
            self.times.pop(key, None)
        elif (at := self.logics[key].notify_at()) is not None:
            self.times[key] = at

    def on_batch(self, groups: dict[str, list[Any]]) -> Events:
        out: Events = {}
        for key, values in groups.items():
            if key not in self.logics:
                self.logics[key] = self.builder(None)
            self._keep(key, *self.logics[key].on_batch(list(values)), out)
        return out

    def on_notify(self) -> Events:
        out: Events = {}
        for key in [key for key, at in self.times.items() if at <= WALL.time]:
            del self.times[key]
            self._keep(key, *self.logics[key].on_notify(), out)
        return out

    def on_eof(self) -> Events:
        out: Events = {}
        for key in [*self.logics]:
            self._keep(key, *self.logics[key].on_eof(), out)
        return out

    def snapshots(self) -> dict[str, Any]:
        return {key: logic.snapshot() for key, logic in self.logics.items()}

    def resume(self, states: dict[str, bytes]) -> None:
        self.logics = {key: self.builder(pickle.loads(data)) for key, data in states.items()}
        for logic in self.logics.values():
            # Bytewax itself fails where the clock is behind the state that it resumes from.
            since = logic.clock.state.system_time_of_max_event
            logic.clock._system_now = max(logic.clock._system_now, since)
        asked = {key: logic.notify_at() for key, logic in self.logics.items()}
        self.times = {key: at for key, at in asked.items() if at is not None}


class Ours:
    """A shard of either kind, driven as the engine does, and what its deltas add up to."""

    def __init__(self, path: Sequence[Any], *, fast: bool) -> None:
        self.path = path
        self.stored: dict[str, bytes] = {}
        self.resume(fast=fast)

    def resume(self, *, fast: bool) -> None:
        self.fast = fast
        found = find_fast_path(self.path)
        assert found is not None
        shard: Shard
        if fast:
            shard = found.kind("flow.step", found.logic, RecordingCodec())
            assert type(shard) is WindowShard
        else:
            shard = ShardLogic("flow.step", self.path[-1].builder, RecordingCodec())
        shard.restore(self.stored)
        self.shard = shard
        self.at = shard.next_time()

    def on_batch(self, groups: dict[str, list[Any]]) -> Events:
        parts, _ = self.shard.on_batch([{key: list(values) for key, values in groups.items()}])
        self.at = self.shard.next_time()
        return events(item for part in parts for item in part)

    def on_notify(self) -> Events:
        if self.at is None or self.at > WALL.time:
            return {}
        items = self.shard.notified(WALL.time)
        self.at = self.shard.next_time()
        return events(items)

    def on_eof(self) -> Events:
        parts, _ = self.shard.on_eof()
        self.shard.next_time()
        return events(item for part in parts for item in part)

    def close(self) -> set[str]:
        """Close an epoch; gives the keys of the delta."""
        delta = changes_of(self.shard.snapshot())
        for key, data in delta.items():
            self.stored.pop(key, None)
            if data is not None:
                self.stored[key] = data
        return set(delta)

    def snapshots(self) -> dict[str, Any]:
        return {key: RecordingCodec().decode(key, data) for key, data in self.stored.items()}


def events(items: Iterable[tuple[str, Any]]) -> Events:
    out: Events = {}
    for key, event in items:
        out.setdefault(key, []).append(repr(event))
    return out


ITEMS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0, 1, 2, 3, 5, 8, -4, -30])),
    max_size=5,
)
GAPS = st.sampled_from([0, 0, 1, 1, 2, 3, 5, 11])
ENDS = st.sampled_from(
    ["", "", "close", "close", "close", "resume", "close resume", "switch", "close back switch"]
)
ROUNDS = st.lists(st.tuples(GAPS, st.integers(-3, 9), ITEMS, ENDS), min_size=2, max_size=14)
"""Seconds before it; how far the times of values move on; key and age of each; what follows."""
SUMMER = datetime(2024, 3, 31, 0, 59, 50, tzinfo=timezone.utc) - NOON
WINTER = datetime(2024, 10, 27, 0, 59, 50, tzinfo=timezone.utc) - NOON
BASES = st.sampled_from([0, 0, -3600, 50, SUMMER // SECOND, WINTER // SECOND])
"""How far the times of values are from the wall's at the start."""


def play(case: Case, base: int, rounds: Any) -> int:
    """Compare, second by second; gives how many events there were."""
    WALL.time = NOON
    path = case.step()
    stock = Stock(path[-1].builder)
    rivals = [Ours(path, fast=True), Ours(path, fast=False)]
    saved: dict[str, bytes] = {}
    number = found = 0
    at = NOON + seconds(base)

    def same(does: str, *arguments: Any) -> None:
        nonlocal found
        try:
            expected = getattr(stock, does)(*arguments)
        except (
            AssertionError
        ):  # its watermark has gone back: times of several zones, one of which jumps
            raise StockFailedError from None
        found += sum(map(len, expected.values()))
        for ours in rivals:
            assert getattr(ours, does)(*arguments) == expected, (ours.fast, does)

    def pass_time(gap: int) -> None:
        for _ in range(gap):
            same("on_notify")
            WALL.time += SECOND
        same("on_notify")

    for gap, moves, items, then in rounds:
        pass_time(gap)
        at += seconds(moves)
        groups: dict[str, list[Any]] = {}
        for key, age in items:
            number += 1
            groups.setdefault(key, []).append(case.value(key, at - seconds(age), number))
        if groups:
            same("on_batch", groups)
        same("on_notify")
        if "close" in then:
            deltas = [ours.close() for ours in rivals]
            assert deltas[0] == deltas[1]
            expected = stock.snapshots()
            saved = {key: pickle.dumps(state) for key, state in expected.items()}
            for ours in rivals:
                assert sorted(map(repr, ours.snapshots().items())) == sorted(
                    map(repr, expected.items())
                )
        if "back" in then:
            WALL.time -= seconds(9)
        if "resume" in then or "switch" in then:
            stock.resume(saved)
            for ours in rivals:
                ours.resume(fast=ours.fast is not ("switch" in then))
    pass_time(3)
    same("on_eof")
    for ours in rivals:
        ours.close()
        assert ours.snapshots().keys() == stock.logics.keys()
    return found


CASES = st.builds(
    Case,
    operator=st.just(""),
    windower=st.sampled_from(sorted(WINDOWERS)),
    clock=st.sampled_from(sorted(CLOCKS)),
    wait=st.sampled_from([0, 2, 10]),
    zone=st.sampled_from(["UTC", "UTC", *ZONES]),
)
EXAMPLES = int(os.environ.get("EXAMPLES", "25"))


@pytest.mark.parametrize("operator", OPERATORS)
def test_windows_are_as_in_stock_second_by_second(operator: str) -> None:
    found = 0

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(CASES, BASES, ROUNDS)
    def compare(case: Case, base: int, rounds: Any) -> None:
        nonlocal found
        with suppress(StockFailedError):
            found += play(replace(case, operator=operator), base, rounds)

    compare()
    assert found > 0


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("windower", ["tumbling", "sliding", "sessions"])
def test_a_timestamp_that_is_no_time_is_refused_in_bytewaxs_words(
    windower: str, fast: bool
) -> None:
    clock = win.EventClock(lambda _value: 7, seconds(1))  # type: ignore[arg-type, return-value]
    ours = Ours(step_of("fold_window", WINDOWERS[windower], clock), fast=fast)
    with pytest.raises(BytewaxRuntimeError) as caught:
        ours.on_batch({"a": [(NOON, 1)]})
    assert type(caught.value.__cause__) is TypeError
    assert "unsupported operand type(s) for -: 'int' and" in str(caught.value.__cause__)
