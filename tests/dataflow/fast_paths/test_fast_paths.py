"""A fast path does what Bytewax's own operator does: results, refusals, deltas, restored state.

Three run side by side: the operator's own logics, one per key, called as the engine calls them; a
shard of those logics; and a fast shard. Whenever they crash, each of the two shards is restored
from what the other one wrote.
"""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow, Operator, Stream, operator
from bytewax.operators import _JoinState
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.codec.delta import unpack_full_delta
from bytewax_redis_state.codec.envelope import deadline_of
from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath
from bytewax_redis_state.dataflow.fast_paths.folds import FoldShard, ReduceShard
from bytewax_redis_state.dataflow.fast_paths.joins import JoinShard
from bytewax_redis_state.dataflow.fast_paths.maps import FlatMapShard, MapShard
from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from bytewax_redis_state.dataflow.shards.deadlines import NEVER, Lifetime
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard import Shard
from bytewax_redis_state.dataflow.shards.shard_builder import ShardBuilder
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequest, SnapshotRequests
from bytewax_redis_state.dataflow.steps import kind_of
from tests.dataflow.core_steps import core_path
from tests.dataflow.deltas import changes_of
from tests.dataflow.operator_catalog import JOIN_MODES, PLAIN
from tests.dataflow.recording import RecordingCodec

Keyed = Stream[tuple[str, Any]]
Batch = list[tuple[str, Any]]
KEPT_MS = 1000


class Held:
    """A state that only pickle can hold, and that changes in place."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other.values == self.values

    def __repr__(self) -> str:
        return f"Held({self.values})"


def next_state(state: Any, value: int) -> Any:
    """Give states of many types, new ones and ones that changed in place."""
    if value == 0:
        return None
    if state is None:
        shared = [value]
        return {1: 0, 2: [], 3: {"n": shared, "again": shared}, 4: Held(), 5: (1, "x")}.get(
            value, value * 0.5
        )
    if isinstance(state, list):
        state.append(value)
    elif isinstance(state, dict):
        state["n"].append(value)
    elif isinstance(state, Held):
        state.values.append(value)
    elif isinstance(state, tuple):
        return (*state, value) if value != 7 else False
    else:
        return [state, value] if value == 7 else state + value
    return state


def mapped(state: Any, value: int) -> Any:
    if value == 13:
        raise ValueError("no thirteen")
    if value == 14:
        return 14
    if value == 15:
        return (1, 2, 3)
    seen = repr(state)
    return [next_state(state, value), seen] if value % 2 else (next_state(state, value), seen)


def flat_mapped(state: Any, value: int) -> Any:
    result = mapped(state, value)
    if value > 12:
        return (None, 5) if value == 16 else result
    new, seen = result
    emits: list[Any] = [[seen], (seen, 1), [], "ab", {seen: 1}, (n for n in range(value % 3)), {4}]
    return new, emits[value % len(emits)]


def folded(state: Any, value: int) -> Any:
    return mapped(state, value)[0]


def reduced(left: Any, right: int) -> Any:
    if right == 13:
        raise ValueError("no thirteen")
    return None if right == 0 else left * 3 - right


OPERATORS: dict[str, Callable[[Keyed], Keyed]] = {
    "stateful_map": lambda up: op.stateful_map("step", up, mapped),
    "stateful_flat_map": lambda up: op.stateful_flat_map("step", up, flat_mapped),
    "fold_final": lambda up: op.fold_final("step", up, list, folded),
    "fold_final of nothing": lambda up: op.fold_final("step", up, lambda: None, folded),
    "reduce_final": lambda up: op.reduce_final("step", up, reduced),
    "count_final": lambda up: op.count_final("step", up, lambda item: item[0]),
    "max_final": lambda up: op.max_final("step", up, by=lambda value: -value),
    "min_final": lambda up: op.min_final("step", up, by=lambda value: value % 5),
}


JOINS: dict[str, Callable[[Keyed], Keyed]] = {
    "_".join(("join", insert, emit)): partial(
        lambda up, **modes: op.join("step", up, up, **modes), insert_mode=insert, emit_mode=emit
    )
    for insert, emit in JOIN_MODES
}
SHARED = ["one list"]
SIDES = st.tuples(
    st.integers(0, 1),
    st.sampled_from([None, 0, "text", (), [], SHARED, {"n": SHARED}, Held(), (1, [2])]),
)


def path_of(build: Callable[[Keyed], Keyed]) -> tuple[Operator, ...]:
    flow = Dataflow("flow")
    op.output("out", build(op.input("in", flow, TestingSource([]))), TestingSink([]))
    return core_path(flow)


class Own:
    """Bytewax's own logics; one that was idle past its lifetime is thrown away."""

    def __init__(self, builder: Callable[[Any], Any], now: Callable[[], int] | None) -> None:
        self.builder = builder
        self.now = now
        self.logics: dict[str, Any] = {}
        self.deadlines: dict[str, int] = {}
        self.touched: set[str] = set()

    def on_batch(self, batches: list[Batch]) -> dict[str, list[str]]:
        groups: dict[str, list[Any]] = {}
        for key, value in (item for batch in batches for item in batch):
            groups.setdefault(key, []).append(value)
        self.throw_away(groups)
        out = {}
        for key, values in groups.items():
            if key not in self.logics:
                self.logics[key] = self.builder(None)
            emit, is_complete = self.logics[key].on_batch(values)
            out[key] = [repr(value) for value in emit]
            if is_complete:
                del self.logics[key]
        self.touched.update(groups)
        return {key: values for key, values in out.items() if values}

    def throw_away(self, keys: Iterable[str]) -> None:
        for key in set(keys) - self.touched:
            if self.now is not None and self.deadlines.get(key, NEVER) <= self.now():
                del self.logics[key], self.deadlines[key]

    def on_eof(self) -> list[tuple[str, str]]:
        self.throw_away(self.logics)
        out, logics = [], self.logics
        for key, logic in sorted(logics.items()):
            emit, is_complete = logic.on_eof()
            out += [(key, repr(value)) for value in emit]
            if is_complete:
                self.touched.add(key)
                self.logics = {k: v for k, v in self.logics.items() if k != key}
        return out

    def close(self, until: int | None) -> dict[str, Any]:
        for key in self.touched:
            self.deadlines.pop(key, None)
            if until is not None and key in self.logics:
                self.deadlines[key] = until
        states = {key: logic.snapshot() for key, logic in self.logics.items()}
        changed = {key: states.get(key) for key in self.touched}
        self.saved = pickle.dumps((states, self.deadlines))
        self.touched = set()
        return changed

    def resume(self) -> None:
        states, self.deadlines = pickle.loads(self.saved)
        self.logics = {key: self.builder(state) for key, state in states.items()}
        self.touched = set()


class Ours:
    """One kind of shard, driven as the engine does, and what its deltas add up to."""

    def __init__(self, how: FastPath, lifetime: Lifetime | None) -> None:
        self.parts = (
            "flow.step",
            how.logic,
            RecordingCodec(),
            lifetime,
            SnapshotRequests(),
            how.kind,
        )
        self.route = how.router(1, 1)
        self.stored: dict[str, bytes] = {}
        self.resume({})

    def resume(self, stored: dict[str, bytes]) -> None:
        self.stored = dict(stored)
        build = ShardBuilder(*self.parts)
        self.shard = build(build.handover.put(dict(stored)))
        self.shard.notify_at()

    def on_batch(self, batches: list[Batch]) -> dict[str, list[str]]:
        values = [pickle.loads(pickle.dumps(v)) for batch in batches for _, v in self.route(batch)]
        parts, is_complete = self.shard.on_batch(values) if values else ((), False)
        assert is_complete is False
        self.shard.notify_at()
        out = defaultdict(list)
        for key, value in (item for part in parts for item in part):
            out[key].append(repr(value))
        return dict(out)

    def drop(self) -> None:
        while (at := self.shard.notify_at()) and at <= datetime.now(timezone.utc):
            assert self.shard.on_notify() == ((), False)

    def on_eof(self) -> list[tuple[str, str]]:
        parts, _ = self.shard.on_eof()
        return [(key, repr(value)) for part in parts for key, value in part]

    def close(self, request: int | None) -> dict[str, bytes | None]:
        if request is not None:
            self.shard.request(SnapshotRequest(request, awaited=True))
        data = self.shard.snapshot()
        answer = unpack_full_delta(data)
        assert (answer and answer.request) == request
        delta = changes_of(answer.delta if answer else data)
        for key, state in delta.items():
            self.stored.pop(key, None)
            if state is not None:
                self.stored[key] = state
        return delta


def decoded(key: str, data: bytes | None) -> Any:
    return None if data is None else RecordingCodec().decode(key, data)


def outcome(run: Callable[[], Any]) -> Any:
    """Give what comes out, or the chain of errors."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - that is what is compared
        return chain_of(error)


def chain_of(error: BaseException | None) -> list[tuple[type, str]]:
    chain = []
    while error is not None:
        chain.append((type(error), str(error)))
        error = error.__cause__
    return chain


GAPS = st.sampled_from([0, 0, 1, 500, 999, 1000, 1031, 1032, 5000])
THENS = st.sampled_from(["", "", "close", "close", "close", "call", "drop", "drop close", "crash"])


def rounds_of(values: st.SearchStrategy[int]) -> Any:
    batches = st.lists(
        st.lists(st.tuples(st.sampled_from("abcde"), values), max_size=6), min_size=1, max_size=3
    )
    return st.lists(st.tuples(GAPS, batches, THENS), max_size=14)


def play(name: str, rounds: Any, *, timed: bool) -> None:
    """Run all three, and compare them round by round."""
    path: Any = path_of((OPERATORS | JOINS)[name])
    fast = find_fast_path(path)
    assert fast is not None
    clock = SimpleNamespace(now=5_000)
    lifetime = Lifetime(KEPT_MS * timedelta(milliseconds=1), lambda: clock.now) if timed else None
    own = Own(path[-1].builder, lifetime and lifetime.now)
    own.close(None)
    pair = [Ours(FastPath(ShardLogic, path[-1].builder), lifetime), Ours(fast, lifetime)]
    closed_at, call = clock.now, 0
    for gap, batches, then in [*rounds, (0, [[]], "close")]:
        clock.now += gap
        expected = outcome(lambda: own.on_batch(batches))  # noqa: B023 - called here
        slow, quick = (outcome(lambda: ours.on_batch(batches)) for ours in pair)  # noqa: B023
        if isinstance(expected, list):
            # Which of several keys fails first depends on what is called first.
            assert quick[0][1].startswith('error calling `StatefulBatchLogic.on_batch` in step "f')
            if len({key for batch in batches for key, _ in batch}) == 1:
                assert quick == slow
                assert quick[1:] == expected
            return
        assert slow == expected
        assert quick == expected
        if "drop" in then:
            own.throw_away([*own.logics])
            for ours in pair:
                ours.drop()
        if "close" in then or "call" in then:
            call += "call" in then
            changed = own.close(lifetime.deadline() if lifetime else None)
            deltas = [ours.close(call if "call" in then else None) for ours in pair]
            assert deltas[0] == deltas[1]
            assert pair[1].stored.keys() == own.logics.keys()
            if "call" in then:
                # It may also say of a key that ended earlier that it is gone.
                said = {key for key, data in deltas[1].items() if data is not None}
                assert said == own.logics.keys()
                assert changed.keys() <= deltas[1].keys()
            found = {key: decoded(key, deltas[1][key]) for key in changed}
            assert repr(found) == repr(changed)
            timed_keys = {k: deadline_of(data) for k, data in pair[1].stored.items()}
            assert timed_keys == {key: own.deadlines.get(key) for key in own.logics}
            closed_at = clock.now
        if "crash" in then:
            clock.now = closed_at
            own.resume()
            slow_stored, quick_stored = (ours.stored for ours in pair)
            pair[0].resume(quick_stored)
            pair[1].resume(slow_stored)
    expected = own.on_eof()
    assert [ours.on_eof() for ours in pair] == [expected, expected]
    deltas = [ours.close(None) for ours in pair]
    assert deltas[0] == deltas[1]
    assert pair[1].stored.keys() == own.logics.keys()


@pytest.mark.parametrize("timed", [True, False], ids=["timed", "for ever"])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_fast_shard_is_the_operators_own_logics(name: str, timed: bool) -> None:
    @settings(max_examples=50, deadline=None)
    @given(rounds_of(st.integers(0, 7)))
    def compare(rounds: Any) -> None:
        play(name, rounds, timed=timed)

    compare()


@pytest.mark.parametrize("timed", [True, False], ids=["timed", "for ever"])
@pytest.mark.parametrize("name", JOINS)
def test_a_fast_join_is_the_operators_own_logics(name: str, timed: bool) -> None:
    @settings(max_examples=50, deadline=None)
    @given(rounds_of(SIDES))
    def compare(rounds: Any) -> None:
        play(name, rounds, timed=timed)

    compare()


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("seen", [[], [[1]], [[1], []], [[], [1, 2]], [[1], [], [3, 4]]])
def test_a_join_goes_on_from_a_state_of_other_modes_or_sides(name: str, seen: Any) -> None:
    path: Any = path_of(JOINS[name])
    fast = find_fast_path(path)
    assert fast is not None
    data = RecordingCodec().encode("a", _JoinState(seen))
    for values in ([(0, 5)], [(1, 5)], [(0, 5), (1, 6), (1, 7)], []):
        batch = [[("a", value) for value in values]]
        own = Own(path[-1].builder, None)
        own.logics["a"] = own.builder(_JoinState(copy.deepcopy(seen)))
        ours = Ours(fast, None)
        ours.resume({"a": data})
        expected = outcome(lambda: own.on_batch(batch))  # noqa: B023 - called here
        found = outcome(lambda: ours.on_batch(batch))  # noqa: B023
        if isinstance(expected, list):
            assert [text for _, text in found[1:]] == [text for _, text in expected]
            continue
        assert found == expected
        assert ours.on_eof() == own.on_eof()
        ours.close(None)
        states = {key: decoded(key, data) for key, data in ours.stored.items()}
        assert states == {key: logic.snapshot() for key, logic in own.logics.items()}


@pytest.mark.parametrize("name", ["stateful_map", "stateful_flat_map", "fold_final"])
def test_a_fast_shard_refuses_what_the_operators_own_logics_refuse(name: str) -> None:
    @settings(max_examples=50, deadline=None)
    @given(rounds_of(st.integers(1, 17)))
    def compare(rounds: Any) -> None:
        play(name, rounds, timed=False)

    compare()
    for value in (13, 14, 15, 16):
        play(name, [(0, [[("a", 1), ("a", value)]], "")], timed=False)


# --- through the engine -------------------------------------------------------------------------


def run_chain(name: str, items: Batch, **how: Any) -> Any:
    out: list[Any] = []
    flow = Dataflow("flow")
    keyed = op.input("in", flow, TestingSource(items, batch_size=3))
    op.output("out", OPERATORS[name](keyed), TestingSink(out))
    try:
        run_main(shard_stateful_steps(flow, **how) if how else flow)
    except BaseException as error:  # noqa: BLE001 - a panic of the engine's is none other
        return [(kind, text.split("): ", 1)[-1]) for kind, text in chain_of(error)]
    return out


@pytest.mark.parametrize("value", [13, 14, 15, 16])
@pytest.mark.parametrize("name", ["stateful_map", "stateful_flat_map", "fold_final"])
def test_errors_name_the_same_step_and_key_through_the_engine(name: str, value: int) -> None:
    items = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", value)]
    stock = run_chain(name, items)
    slow, quick = (run_chain(name, items, fast_paths=fast) for fast in (False, True))
    if isinstance(stock[0][0], type):
        assert slow == quick
        assert quick[1][1].replace(" for key", "").startswith("error calling `StatefulBatchLogic")
        assert quick[2:] == stock[1:]
    else:
        assert stock == slow == quick


# --- which ---------------------------------------------------------------------------------------

FAST = {
    "stateful_map": MapShard,
    "stateful_flat_map": FlatMapShard,
    "fold_final": FoldShard,
    "reduce_final": ReduceShard,
    "count_final": ReduceShard,
    "max_final": ReduceShard,
    "min_final": ReduceShard,
}


@pytest.mark.parametrize("name", PLAIN)
def test_bytewaxs_own_operators_are_known_and_no_others(name: str) -> None:
    fast = find_fast_path(path_of(PLAIN[name]))
    assert (fast and fast.kind) == FAST.get(name)


@pytest.mark.parametrize("name", JOINS)
def test_joins_are_known_in_all_modes(name: str) -> None:
    fast = find_fast_path(path_of(JOINS[name]))
    assert fast is not None
    assert fast.kind is JoinShard


def test_an_operator_is_known_inside_of_the_users_own() -> None:
    @operator
    def own(step_id: str, up: Keyed) -> Keyed:
        return op.stateful_map("inside", up, mapped)

    fast = find_fast_path(path_of(lambda up: own("step", up)))
    assert fast is not None
    assert fast.kind is MapShard
    assert fast.logic.mapper is mapped


def test_an_operator_of_the_same_name_is_another_one() -> None:
    @operator
    def stateful_map(step_id: str, up: Keyed, mapper: Any) -> Keyed:
        return op.stateful("stateful_flat_map", up, lambda _state: mapper)

    assert find_fast_path(path_of(lambda up: stateful_map("step", up, mapped))) is None


def kinds_in(steps: Iterable[Any]) -> list[type[Shard]]:
    found = []
    for step in steps:
        if kind_of(step) == "keyed" and isinstance(step.builder, ShardBuilder):
            found.append(step.builder._kind)
        found += kinds_in(step.substeps)
    return found


def test_fast_paths_are_on_unless_they_are_turned_off() -> None:
    flow = Dataflow("flow")
    keyed = op.input("in", flow, TestingSource([]))
    op.output("out", OPERATORS["stateful_map"](keyed), TestingSink([]))
    assert kinds_in(shard_stateful_steps(flow).substeps) == [MapShard]
    assert kinds_in(shard_stateful_steps(flow, fast_paths=False).substeps) == [ShardLogic]
