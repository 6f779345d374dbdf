"""Output with a lifetime is stock's, where a key idle past its lifetime counts as new."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import _WindowLogic
from bytewax.testing import TestingSink, TestingSource
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state.codec.envelope import deadline_of
from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from bytewax_redis_state.dataflow.shards.deadlines import NEVER, Lifetime
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard_builder import ShardBuilder
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests

from .core_steps import core_path
from .deltas import changes_of
from .operator_catalog import EPOCH, PLAIN, WINDOWERS, timestamp, windowed
from .recording import RecordingCodec

LIFETIME = timedelta(seconds=32)
STEP_MS = 1000
"""A 32nd of it, to which deadlines are rounded up."""

WINDOW_OPERATORS = [
    "collect_window", "count_window", "fold_window", "reduce_window", "max_window", "min_window",
    "join_window",
]  # fmt: skip
CASES = [
    "stateful_map",
    *(f"{name} {shape}" for name, shape in product(WINDOW_OPERATORS, WINDOWERS)),
]


class Clock:
    """The flow's time, which a test moves, and a system's time, which goes on with it."""

    def __init__(self, now_ms: int = 1_700_000_000_123) -> None:
        self.now_ms = now_ms
        self.system = EPOCH

    def __call__(self) -> int:
        return self.now_ms

    def move(self, gap_ms: int) -> None:
        self.now_ms += gap_ms
        self.system += timedelta(milliseconds=gap_ms)

    def of_events(self) -> win.EventClock[Any]:
        """Let the watermark move with the system's time, but close windows only on an item."""
        return win.EventClock(
            ts_getter=timestamp,
            wait_for_system_duration=timedelta(seconds=5),
            now_getter=lambda: self.system,
            to_system_utc=lambda _timestamp: None,
        )


def path_of(case: str, clock: Clock) -> Any:
    """Give the operators around the core step, and itself."""
    flow = Dataflow("flow")
    items: Any = op.input("items", flow, TestingSource([]))
    if case in PLAIN:
        made: Any = PLAIN[case](items)
    else:
        name, shape = case.split()
        made = windowed(items, [items, items], name, True, clock.of_events(), WINDOWERS[shape]).down
    op.output("out", made, TestingSink([]))
    return core_path(flow)


def value_for(case: str, key: str, at: datetime, number: int) -> Any:
    """Make a value as the core step gets it."""
    value = (at, number)
    if case == "stateful_map":
        return number
    if case.startswith("count_window"):
        return (key, value)
    return (number % 2, value) if case.startswith("join_window") else value


class Stock:
    """Bytewax's own logics; one whose key was idle past its lifetime is thrown away."""

    def __init__(self, builder: Any, clock: Clock) -> None:
        self.builder = builder
        self.clock = clock
        self.logics: dict[str, Any] = {}
        self.deadlines: dict[str, int] = {}
        self.touched: set[str] = set()
        self.thrown_away = 0
        self.saved: tuple[dict[str, bytes], dict[str, int]] = {}, {}

    def throw_away(self, keys: Iterable[str]) -> None:
        for key in set(keys) - self.touched:
            if self.deadlines.get(key, NEVER) <= self.clock():
                del self.logics[key], self.deadlines[key]
                self.thrown_away += 1

    def on_batch(self, groups: dict[str, list[Any]]) -> list[Any]:
        self.throw_away(groups)
        out = []
        for key, values in groups.items():
            if key not in self.logics:
                self.logics[key] = self.builder(None)
            emit, is_complete = self.logics[key].on_batch(list(values))
            out += [(key, value) for value in emit]
            if is_complete:
                del self.logics[key]
        self.touched.update(groups)
        return out

    def on_eof(self) -> list[Any]:
        self.throw_away(self.logics)
        return [(key, v) for key, logic in sorted(self.logics.items()) for v in logic.on_eof()[0]]

    def close(self) -> None:
        latest = self.clock() + LIFETIME // timedelta(milliseconds=1)
        for key in self.touched:
            self.deadlines.pop(key, None)
            logic = self.logics.get(key)
            if logic is not None and not owes(logic):
                self.deadlines[key] = -(-latest // STEP_MS) * STEP_MS
        self.touched.clear()
        states = {key: pickle.dumps(logic.snapshot()) for key, logic in self.logics.items()}
        self.saved = states, dict(self.deadlines)

    def resume(self) -> None:
        states, deadlines = self.saved
        self.logics = {key: self.builder(pickle.loads(data)) for key, data in states.items()}
        self.deadlines = dict(deadlines)
        self.touched.clear()


def owes(logic: Any) -> bool:
    """Tell it from the outside: what is written down has an open window or a waiting item."""
    if not isinstance(logic, _WindowLogic):
        return False
    written = logic.snapshot()
    return bool(written.logic_states or written.queue)


class Ours:
    """A shard, driven as the engine does, and what its deltas add up to."""

    def __init__(self, how: FastPath, clock: Clock) -> None:
        self.how = how
        self.clock = clock
        self.stored: dict[str, bytes] = {}
        self.resume()

    def resume(self) -> None:
        lifetime = Lifetime(LIFETIME, self.clock)
        parts = (
            "flow.step",
            self.how.logic,
            RecordingCodec(),
            lifetime,
            SnapshotRequests(),
            self.how.kind,
        )
        build = ShardBuilder(*parts)
        shard = build(build.handover.put(dict(self.stored)))
        assert type(shard) is self.how.kind
        self.shard: Any = shard
        self.shard.notify_at()

    def on_batch(self, groups: dict[str, list[Any]]) -> list[Any]:
        parts, _ = self.shard.on_batch([groups])
        self.shard.notify_at()
        return [item for part in parts for item in part]

    def wake(self) -> None:
        while (at := self.shard.notify_at()) and at <= datetime.now(timezone.utc):
            assert self.shard.on_notify() == ((), False)

    def on_eof(self) -> list[Any]:
        parts, _ = self.shard.on_eof()
        return [item for part in parts for item in part]

    def close(self) -> None:
        for key, data in changes_of(self.shard.snapshot()).items():
            if data is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = data

    def held(self) -> set[str]:
        return self.shard._held.keys() | self.shard._asleep.keys()


GAPS = st.sampled_from(
    [0, 1, 9_000, 20_000, 31_000, 31_999, 32_000, 33_001, 40_000, 40_000, 70_000]
)
AGES = st.sampled_from([0, 0, 3, 6, 600, 600])
"""Seconds behind the system's time; from 5 on, an item is late unless its key is new."""
ENDS = ["", "close", "close", "close", "wake", "wake close", "resume", "close resume"]
ROUNDS = st.lists(
    st.tuples(
        GAPS,
        st.lists(st.tuples(st.sampled_from("ab"), AGES), min_size=1, max_size=3),
        st.sampled_from(ENDS),
    ),
    min_size=4,
    max_size=25,
)


def play(case: str, rounds: Any, *, fast: bool) -> int:
    """Compare what ours does with what stock does, round by round.

    :arg rounds: Gap before it in milliseconds, items as key and age, and what follows on them.
    :returns: How many logics were thrown away.
    """
    clock = Clock()
    path = path_of(case, clock)
    builder = path[-1].builder
    how = find_fast_path(path) if fast else FastPath(ShardLogic, builder)
    assert how is not None
    stock, ours = Stock(builder, clock), Ours(how, clock)
    number, closed_at = 0, clock()
    for gap, items, then in rounds:
        clock.move(gap)
        groups: dict[str, list[Any]] = {}
        for key, age in items:
            number += 1
            at = clock.system - timedelta(seconds=age)
            groups.setdefault(key, []).append(value_for(case, key, at, number))
        assert repr(ours.on_batch(groups)) == repr(stock.on_batch(groups))
        if "wake" in then:
            ours.wake()
            stock.throw_away(list(stock.logics))
            assert ours.held() == stock.logics.keys()
        if "close" in then:
            ours.close()
            stock.close()
            closed_at = clock()
            assert ours.stored.keys() == stock.logics.keys() == ours.held()
            found = {key: deadline_of(data) for key, data in ours.stored.items()}
            assert found == {key: stock.deadlines.get(key) for key in found}
            assert ours.shard._deadlines._times == stock.deadlines
        if "resume" in then:
            clock.now_ms = closed_at
            ours.resume()
            stock.resume()
    assert repr(ours.on_eof()) == repr(stock.on_eof())
    return stock.thrown_away


@pytest.mark.parametrize(
    ("case", "fast"),
    [
        *((case, False) for case in CASES),
        *((case, True) for case in CASES[1:] if "join" not in case),
    ],
)
def test_an_idle_key_starts_anew_and_any_other_is_as_in_stock(case: str, fast: bool) -> None:
    thrown_away = 0

    @settings(max_examples=120 if "session" in case else 20 if fast else 60, deadline=None)
    @given(ROUNDS)
    def compare(rounds: Any) -> None:
        nonlocal thrown_away
        thrown_away += play(case, rounds, fast=fast)

    compare()
    # Bytewax itself discards a key's other windows once none is open, and an open one is kept.
    assert (thrown_away > 0) is ("session" in case or case == "stateful_map")
