"""Retention: who has one, and that dropping idle keys changes nothing else.

The oracle is Bytewax's own logic, called directly: a key that was idle past its deadline has its
logic thrown away there, and nothing else is done to it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax import visualize
from bytewax.dataflow import Dataflow, Stream
from bytewax.operators import StatefulBatchLogic
from bytewax.operators.windowing import (
    EventClock,
    SessionWindower,
    SlidingWindower,
    SystemClock,
    TumblingWindower,
)
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state import retain, shard_stateful_steps
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import deadline_of
from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from bytewax_redis_state.dataflow.retention import lifetimes
from bytewax_redis_state.dataflow.shards.deadlines import Lifetime
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard import Shard
from bytewax_redis_state.dataflow.steps import kind_of, state_steps
from bytewax_redis_state.errors import ConfigError

from .core_steps import core_path
from .deltas import changes_of

EPOCH = datetime(2024, 1, 1, tzinfo=timezone.utc)
S = timedelta(seconds=1)
GRACE = timedelta(hours=24)
CODEC = Codec().bind(namespace="n", flow_id="f", step="s")

Item = tuple[datetime, int]
Window = Callable[[Any, EventClock[Any], Any], Stream[Any]]


def frozen(getter: Callable[[Any], datetime] = lambda item: item[0]) -> EventClock[Any]:
    """Only items move a watermark; nothing is notified."""
    return EventClock(getter, 4 * S, now_getter=lambda: EPOCH, to_system_utc=lambda _at: None)


WINDOWERS: dict[str, Any] = {
    "tumbling": TumblingWindower(10 * S, EPOCH),
    "sliding": SlidingWindower(10 * S, 5 * S, EPOCH),
    "session": SessionWindower(5 * S),
}
WINDOWS: dict[str, Window] = {
    "collect": lambda up, clock, w: win.collect_window("w", up, clock, w).down,
    "collect-set": lambda up, clock, w: win.collect_window("w", up, clock, w, into=set).down,
    "count": lambda up, clock, w: win.count_window(
        "w", op.map("unkeyed", up, lambda kv: kv), EventClock(
            lambda kv: kv[1][0], 4 * S, now_getter=lambda: EPOCH, to_system_utc=lambda _at: None
        ), w, lambda kv: kv[0],
    ).down,
    "fold": lambda up, clock, w: win.fold_window(
        "w", up, clock, w, list, lambda s, v: [*s, v[1]], lambda a, b: a + b
    ).down,
    "reduce": lambda up, clock, w: win.reduce_window(
        "w", up, clock, w, lambda a, b: (max(a[0], b[0]), a[1] + b[1])
    ).down,
    "max": lambda up, clock, w: win.max_window("w", up, clock, w, by=lambda v: v[1]).down,
    "min": lambda up, clock, w: win.min_window("w", up, clock, w, by=lambda v: v[1]).down,
    "join": lambda up, clock, w: win.join_window("w", clock, w, up, up, emit_mode="running").down,
}  # fmt: skip


def windowed(name: str, windower: Any, clock: EventClock[Any] | None = None) -> Dataflow:
    flow = Dataflow("f")
    up = op.input("in", flow, TestingSource([]))
    op.output("out", WINDOWS[name](up, clock or frozen(), windower), TestingSink([]))
    return flow


def summed() -> Dataflow:
    flow = Dataflow("f")
    up = op.input("in", flow, TestingSource([]))

    def add(total: int | None, item: Item) -> tuple[int | None, int]:
        total = (total or 0) + item[1]
        return (None if item[1] == 3 else total), total  # a three ends the key

    op.output("out", op.stateful_map("w", up, add), TestingSink([]))
    return flow


def core_builder(flow: Dataflow) -> Callable[[Any], StatefulBatchLogic[Any, Any, Any]]:
    """The builder that Bytewax's own engine would call."""

    def found(steps: Any) -> Any:
        for step in steps:
            if kind_of(step) == "keyed":
                return step.builder
            inner = found(step.substeps)
            if inner is not None:
                return inner
        return None

    return found(flow.substeps)


# --- who has one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(
    ("windower", "needed"), [("tumbling", 10 * S), ("sliding", 15 * S), ("session", 5 * S)]
)
def test_every_window_operator_has_one_by_itself(name, windower, needed):
    flow = windowed(name, WINDOWERS[windower])
    (step,) = [step for step in state_steps(flow) if step.kind == "keyed"]
    assert lifetimes(flow, {}, GRACE) == {step.step_id: needed + 4 * S + GRACE}


def test_a_system_clock_waits_for_nothing():
    flow = windowed("fold", WINDOWERS["session"], SystemClock())
    assert list(lifetimes(flow, {}, GRACE).values()) == [5 * S + GRACE]


@pytest.mark.parametrize("wait", [timedelta.max, timedelta(days=100_000_000)])
def test_a_wait_without_end_is_no_retention(wait):
    clock = EventClock(lambda item: item[0], wait)
    assert lifetimes(windowed("fold", WINDOWERS["session"], clock), {}, GRACE) == {}


class OwnWindower(SessionWindower):
    """Of the user's: nobody knows how long it needs a key."""


class OwnClock(EventClock):  # type: ignore[type-arg]
    """Of the user's."""


def test_what_is_the_users_own_has_none():
    assert lifetimes(windowed("fold", OwnWindower(5 * S)), {}, GRACE) == {}
    clock = OwnClock(lambda item: item[0], 4 * S)
    assert lifetimes(windowed("fold", WINDOWERS["session"], clock), {}, GRACE) == {}


def test_other_steps_have_what_is_given_or_marked():
    flow = summed()
    step_id = "f.w.stateful_flat_map.stateful.stateful_batch"
    (keyed,) = [step.step_id for step in state_steps(flow) if step.kind == "keyed"]
    assert lifetimes(flow, {}, GRACE) == {}
    for name in ("w", "f.w", keyed):
        assert lifetimes(flow, {name: 7 * S}, GRACE) == {keyed: 7 * S}
    assert step_id == keyed


def test_an_option_goes_before_the_flow_and_the_flow_before_the_default():
    flow = Dataflow("f")
    up = op.input("in", flow, TestingSource([]))
    down = retain(WINDOWS["fold"](up, frozen(), WINDOWERS["session"]), 9 * S)
    op.output("out", down, TestingSink([]))
    assert list(lifetimes(flow, {}, GRACE).values()) == [9 * S]
    assert list(lifetimes(flow, {"w": 8 * S}, GRACE).values()) == [8 * S]
    assert lifetimes(flow, {"w": None}, GRACE) == {}


def marked(lifetime: timedelta | None = 7 * S) -> tuple[Dataflow, list[Any]]:
    flow = Dataflow("f")
    came: list[Any] = [("a", 1), ("b", 2), ("a", 3)]
    out: list[Any] = []
    up = op.input("in", flow, TestingSource(came))
    sums = op.stateful_map("sum", up, lambda s, v: ((s or 0) + v, (s or 0) + v))
    assert retain(sums, lifetime) is sums
    op.output("out", sums, TestingSink(out))
    return flow, out


def test_a_marked_flow_runs_as_before_on_plain_bytewax():
    flow, out = marked()
    run_main(flow)
    assert sorted(out) == [("a", 1), ("a", 4), ("b", 2)]


@pytest.mark.parametrize("draw", [visualize.to_json, visualize.to_mermaid, visualize.to_plantuml])
def test_a_marked_flow_can_be_drawn(draw):
    for flow in (marked()[0], shard_stateful_steps(marked()[0])):
        assert "retain" in draw(flow)


def test_a_marked_flow_is_rewritten_with_its_mark():
    flow, out = marked()
    kept = lifetimes(flow, {}, GRACE)
    assert list(kept.values()) == [7 * S]
    run_main(shard_stateful_steps(flow, retention=kept))
    assert sorted(out) == [("a", 1), ("a", 4), ("b", 2)]
    assert lifetimes(marked(None)[0], {}, GRACE) == {}


def test_a_mark_on_what_keeps_no_state_is_refused():
    flow = Dataflow("f")
    up = op.input("in", flow, TestingSource([]))
    with pytest.raises(ConfigError, match="holds 0 steps with state per key"):
        retain(up, 7 * S)
    with pytest.raises(ConfigError, match="give a timedelta"):
        retain(up, timedelta(0))


def test_two_marks_that_contradict_are_refused():
    flow = Dataflow("f")
    up = op.input("in", flow, TestingSource([]))
    sums = op.stateful_map("sum", up, lambda s, v: (s, v))
    retain(retain(sums, 7 * S), 7 * S)
    assert [step.step_id for step in flow.substeps].count("f.sum_retain") == 1
    with pytest.raises(ConfigError, match="already"):
        retain(sums, 8 * S)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "no step 'nothing'"), ("in", "which has no state per key"), ("f", "no step")],
)
def test_a_step_that_can_have_none_is_refused_with_those_that_can(name, said):
    with pytest.raises(ConfigError, match=said) as caught:
        lifetimes(summed(), {name: 7 * S}, GRACE)
    assert caught.value.hint.endswith(": w")


# --- dropping changes nothing else ---------------------------------------------------------------


@dataclass
class Oracle:
    """Stock logics, and the deadlines that each key should have."""

    build: Callable[[Any], StatefulBatchLogic[Any, Any, Any]]
    kept: int | None
    logics: dict[str, StatefulBatchLogic[Any, Any, Any]] = field(default_factory=dict)
    deadlines: dict[str, int] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def batch(self, now: int, groups: Mapping[str, list[Any]]) -> list[Any]:
        out = []
        for key, values in groups.items():
            if key not in self.touched and self.deadlines.get(key, now + 1) <= now:
                del self.logics[key]
            logic = self.logics.get(key)
            if logic is None:
                logic = self.logics[key] = self.build(None)
            emitted, done = logic.on_batch(list(values))
            out += [(key, value) for value in emitted]
            if done:
                del self.logics[key]
            self.deadlines.pop(key, None)
            self.touched.add(key)
        return out

    @staticmethod
    def owes(logic: Any) -> bool:
        return bool(getattr(logic, "logics", None) or getattr(logic, "queue", None))

    def close(self, now: int) -> dict[str, int | None]:
        """End the epoch; every key that is there to its deadline."""
        for key in self.touched:
            if self.kept is not None and key in self.logics and not self.owes(self.logics[key]):
                grain = max(1, self.kept // 32)
                self.deadlines[key] = -(-(now + self.kept) // grain) * grain
        self.touched.clear()
        for key in [key for key, at in self.deadlines.items() if at <= now]:
            del self.deadlines[key], self.logics[key]
        return {key: self.deadlines.get(key) for key in self.logics}

    def saved(self) -> tuple[dict[str, Any], dict[str, int]]:
        states = {key: copy.deepcopy(logic.snapshot()) for key, logic in self.logics.items()}
        return states, dict(self.deadlines)

    def resume(self, saved: tuple[dict[str, Any], dict[str, int]]) -> None:
        states, deadlines = copy.deepcopy(saved)
        self.logics = {key: self.build(state) for key, state in states.items()}
        self.deadlines, self.touched = deadlines, set()


def drop_due(shard: Shard) -> None:
    """Do what the engine does: notify for as long as it is wanted at once."""
    for _ in range(1000):
        at = shard.notify_at()
        if at is None or at > datetime.now(timezone.utc):
            return
        assert list(shard.on_notify()[0]) == []
    raise AssertionError("it spins")


keys = st.sampled_from("abcd")
values = st.tuples(keys, st.integers(-12, 8), st.integers(0, 4))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("items"), st.lists(values, min_size=1, max_size=5)),
        st.tuples(st.just("pass"), st.sampled_from([1, 100, 999, 1000, 1001, 2500])),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("kill"), st.sampled_from([0, 500, 10**9])),
    ),
    max_size=30,
)
FLOWS = {f"{name}-{w}": (name, w) for name in WINDOWS for w in WINDOWERS} | {"sum": ("", "")}
FAST = [
    "fold-sliding",
    *(f"{name}-{w}" for name in WINDOWS if name != "join" for w in ("tumbling", "session")),
]
KEPT = [S, None]
CASES = [
    *(pytest.param(case, kept, False, id=f"{case}-{kept}") for case in FLOWS for kept in KEPT),
    *(pytest.param(case, S, True, id=f"{case}-fast") for case in FAST),
]


def shard_for(flow: Dataflow, lifetime: Lifetime | None, *, fast: bool) -> Shard:
    path = core_path(flow)
    found = find_fast_path(path)
    if not fast:
        return ShardLogic("f.w", path[-1].builder, CODEC, lifetime)
    assert found is not None
    shard: Shard = found.kind("f.w", found.logic, CODEC, lifetime)
    assert not isinstance(shard, ShardLogic)
    return shard


@pytest.mark.parametrize(("case", "kept", "fast"), CASES)
@settings(max_examples=40, deadline=None)
@given(script=steps)
def test_results_are_stocks_where_an_idle_key_counts_as_new(case, kept, fast, script):
    """In order, out of order, late; kills and stops: what a shard puts out is what stock would."""
    name, windower = FLOWS[case]
    flow = windowed(name, WINDOWERS[windower]) if name else summed()
    build = core_builder(flow)
    clock = [1_000_000]
    lifetime = None if kept is None else Lifetime(kept, lambda: clock[0])
    oracle = Oracle(build, None if kept is None else 1000)
    shard = shard_for(flow, lifetime, fast=fast)
    durable: dict[str, bytes] = {}
    saved, closed_at, event = oracle.saved(), clock[0], EPOCH
    for what, how in [*script, ("close", None)]:
        if what == "items":
            groups: dict[str, list[Any]] = {}
            for key, move, number in how:
                event += max(move, 0) * S
                at = event + min(move, 0) * S  # up to 4 s late is in time, more is not
                item: Any = (at, number)
                if name == "count":
                    item = (key, item)
                elif name == "join":
                    item = (number % 2, item)
                groups.setdefault(key, []).append(item)
            right = oracle.batch(clock[0], groups)
            (emitted, done) = shard.on_batch([groups])
            assert not done
            assert [pair for batch in emitted for pair in batch] == right
            shard.notify_at()
        elif what == "pass":
            clock[0] += how
            drop_due(shard)
        elif what == "close":
            drop_due(shard)
            expected = oracle.close(clock[0])
            delta = changes_of(shard.snapshot())
            durable = {k: d for k, d in (durable | delta).items() if d is not None}
            assert {key: deadline_of(data) for key, data in durable.items()} == expected
            saved, closed_at = oracle.saved(), clock[0]
            assert {k: CODEC.decode(k, d) for k, d in durable.items()} == saved[0]
        else:  # a kill; the flow's time is that of its last commit, however long it stands still
            clock[0] = closed_at
            oracle.resume(saved)
            shard = shard_for(flow, lifetime, fast=fast)
            shard.restore(pickle.loads(pickle.dumps(durable)))
            drop_due(shard)


# --- bounded work, nothing left ------------------------------------------------------------------


def timed_shard(flow: Dataflow, clock: list[int], kept: timedelta = S) -> ShardLogic:
    return ShardLogic("f.w", core_builder(flow), CODEC, Lifetime(kept, lambda: clock[0]))


def test_a_few_are_dropped_in_each_activation():
    clock = [0]
    shard = timed_shard(summed(), clock)
    shard.on_batch([{f"k{n}": [(EPOCH, 1)] for n in range(1000)}])
    shard.notify_at()
    shard.snapshot()
    clock[0] = 5000
    rounds = 0
    while shard.notify_at() <= datetime.now(timezone.utc):
        before = len(shard._held)
        shard.on_notify()
        assert 0 < before - len(shard._held) <= 100
        rounds += 1
    assert rounds == 10
    assert set(changes_of(shard.snapshot()).values()) == {None}


def test_an_overdue_key_that_comes_before_it_is_dropped_counts_as_new():
    clock = [0]
    shard = timed_shard(summed(), clock)
    shard.on_batch([{"a": [(EPOCH, 4)]}])
    shard.snapshot()
    clock[0] = 999
    assert list(shard.on_batch([{"a": [(EPOCH, 1)]}])[0]) == [[("a", 5)]]
    shard.snapshot()
    clock[0] = 5000
    assert list(shard.on_batch([{"a": [(EPOCH, 1)]}])[0]) == [[("a", 1)]]
    clock[0] = 9000  # its epoch is open still: what it has now is not dropped
    shard.on_notify()
    assert list(shard.on_batch([{"a": [(EPOCH, 1)]}])[0]) == [[("a", 2)]]


def test_a_key_touched_in_an_open_epoch_is_not_dropped():
    clock = [0]
    shard = timed_shard(summed(), clock)
    shard.on_batch([{"a": [(EPOCH, 4)]}])
    shard.snapshot()
    clock[0] = 900
    shard.on_batch([{"a": [(EPOCH, 1)]}])
    clock[0] = 5000
    drop_due(shard)
    assert deadline_of(changes_of(shard.snapshot())["a"]) >= 6000
    clock[0] = 5900
    assert list(shard.on_batch([{"a": [(EPOCH, 1)]}])[0]) == [[("a", 6)]]


def test_a_key_that_owes_again_loses_its_deadline():
    clock, now = [0], [EPOCH]
    moving = EventClock(
        lambda item: item[0], 4 * S, now_getter=lambda: now[0], to_system_utc=lambda _at: None
    )
    shard = timed_shard(windowed("fold", WINDOWERS["session"], moving), clock)

    def deadline_after(at: datetime) -> int | None:
        shard.on_batch([{"a": [(at, 1)]}])
        return deadline_of(changes_of(shard.snapshot())["a"])

    assert deadline_after(EPOCH) is None, "a window is open"
    now[0] += 60 * S
    assert 1000 <= deadline_after(EPOCH) <= 1031, (
        "too late for a window, and time to close the first"
    )
    assert deadline_after(now[0]) is None, "another one is open"
    clock[0] = 5000
    drop_due(shard)
    assert changes_of(shard.snapshot()) == {}


def test_deleted_keys_leave_nothing_in_the_shard():
    clock = [0]
    for ended in ("by itself", "by its deadline"):
        shard = timed_shard(summed(), clock)
        names = [f"k{n}" for n in range(5000)]
        shard.on_batch([{name: [(EPOCH, 1)] for name in names}])
        shard.notify_at()
        shard.snapshot()
        if ended == "by itself":
            shard.on_batch([{name: [(EPOCH, 3)] for name in names}])
        else:
            clock[0] += 5000
        drop_due(shard)
        shard.snapshot()
        left = (shard._held, shard._asleep, shard._dirty, shard._awoken, shard._mistimed)
        assert [len(part) for part in left] == [0] * 5
        assert len(shard._deadlines) == 0
        assert shard._held.__sizeof__() < 1000, "the room is given back"
        assert shard._deadlines._times.__sizeof__() < 1000
        assert shard._deadlines._keys == {}


@pytest.mark.parametrize("case", ["sum", "fold-session"])
def test_a_retention_that_comes_or_goes_has_all_keys_written_once(case):
    name, windower = FLOWS[case]
    flow = windowed(name, WINDOWERS[windower]) if name else summed()
    build, clock = core_builder(flow), [0]
    lifetime = Lifetime(S, lambda: clock[0])
    first = ShardLogic("f.w", build, CODEC)
    # The second item ends the window of the first, and opens one of its own for "b".
    far = EPOCH + 100 * S
    first.on_batch([{"a": [(EPOCH, 1)], "b": [(EPOCH, 1)]}])
    first.on_batch([{"b": [(far, 1)]}])
    durable = changes_of(first.snapshot())
    open_keys = {"a", "b"} if name else set()
    for timed in (lifetime, lifetime, None, None):
        shard = ShardLogic("f.w", build, CODEC, timed)
        shard.restore(durable)
        at = shard.notify_at()
        delta = changes_of(shard.snapshot())
        now_timed = {k for k in durable if deadline_of(durable[k]) is not None}
        wrong = (set(durable) - open_keys) - now_timed if timed else now_timed
        assert set(delta) == wrong
        if wrong:
            assert at is not None
            assert at <= datetime.now(timezone.utc), "the engine snapshots what is awoken only"
        durable = durable | delta
    assert {deadline_of(data) for data in durable.values()} == {None}
