"""A state that is taken without a copy is the state that the logic's own ``snapshot`` gives."""

from __future__ import annotations

import operator
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import bytewax.operators.windowing as win
import pytest
from bytewax.operators import _JoinLogic, _JoinState, _StatefulLogic
from bytewax.testing import run_main
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.compact_state import JOIN, CompactState
from bytewax_redis_state.dataflow.shards import logic_shard
from bytewax_redis_state.dataflow.shards.deferred_window import DeferredWindow
from bytewax_redis_state.dataflow.shards.logic_snapshots import snapshot_of
from bytewax_redis_state.errors import DecodeError, EncodeError
from tests.dataflow.operator_catalog import catalog

UTC = timezone.utc
CODEC = Codec().bind(namespace="n", flow_id="f", step="s")


def came_back(state: Any) -> Any:
    return CODEC.decode("key", CODEC.encode("key", state))


def test_every_operator_gives_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[str] = Counter()

    def compared(logic: Any) -> Any:
        own = logic._logic if isinstance(logic, DeferredWindow) else logic
        state, copy = snapshot_of(logic), own.snapshot()
        if type(state) is CompactState:
            taken["CompactState"] += 1
            assert repr(came_back(state)) == repr(copy)
        else:
            assert state == copy
            assert type(state) is type(copy)
        taken[type(own).__name__] += 1
        return state

    monkeypatch.setattr(logic_shard, "snapshot_of", compared)
    run_main(shard_stateful_steps(catalog([])), epoch_interval=timedelta(0))
    assert {"_WindowLogic", "_StatefulLogic"} <= taken.keys()
    assert min(taken["_WindowLogic"], taken["_StatefulLogic"], taken["CompactState"]) > 100


def windows(windower: Any, clock_state: Any, states: dict[int, Any], queue: list[Any]) -> Any:
    clock: Any = win._EventClockLogic(
        lambda: datetime.now(UTC), lambda value: value, lambda at: at, timedelta(0), clock_state
    )
    folds = {
        window_id: win._FoldWindowLogic(operator.add, operator.add, state)
        for window_id, state in states.items()
    }
    return DeferredWindow(
        win._WindowLogic(clock, windower, lambda state: state, False, folds, queue)
    )


TIMES = st.datetimes(timezones=st.just(UTC)) | st.sampled_from([win.UTC_MIN, win.UTC_MAX])
FOLD = ", fold=1"
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=1)), ZoneInfo("Europe/Berlin")])
VALUES = st.none() | st.integers() | st.text() | st.lists(st.integers() | st.lists(st.text()))
IDS = st.lists(st.integers(-(2**40), 2**40), unique=True, max_size=4)
QUEUES = st.lists(st.tuples(VALUES, TIMES), max_size=3)


@st.composite
def logics_of_windows(draw: Any, times: Any) -> Any:
    ids = draw(IDS)
    clock = win._EventClockState(draw(times), draw(times))
    metas = {each: win.WindowMetadata(draw(times), draw(times)) for each in ids}
    if draw(st.booleans()):
        for meta in metas.values():
            meta.merged_ids = set(draw(st.lists(st.integers(0, 9), max_size=2)))
        merges = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2))
        state = win._SessionWindowerState(draw(st.integers(-1, 99)), metas, merges)
        windower: Any = win._SessionWindowerLogic(timedelta(seconds=1), state)
    else:
        minute = timedelta(minutes=1)
        opened = win._SlidingWindowerState(metas)
        windower = win._SlidingWindowerLogic(minute, minute, win.UTC_MIN, opened)
    order = draw(st.permutations(ids))
    return windows(windower, clock, {each: draw(VALUES) for each in order}, draw(QUEUES))


@given(logics_of_windows(TIMES | st.datetimes(timezones=ZONES)))
def test_windows_of_any_times_come_back(logic: Any) -> None:
    back, own = came_back(snapshot_of(logic)), logic._logic.snapshot()
    assert back == own
    # The text shows what equality doesn't: zones, and the order of the windows. A fold means
    # nothing in UTC.
    assert repr(back).replace(FOLD, "") == repr(own).replace(FOLD, "")


def one_window(state: Any) -> Any:
    minute, start = timedelta(minutes=1), datetime(2024, 1, 1, tzinfo=UTC)
    opened = win._SlidingWindowerState({7: win.WindowMetadata(start, start + minute)})
    windower: Any = win._SlidingWindowerLogic(minute, minute, start, opened)
    return windows(windower, win._EventClockState(start, start), {7: state}, [])


class Foreign:
    """A class whose values only pickle can hold."""

    def __reduce__(self) -> Any:
        return Foreign, ()

    def __eq__(self, other: object) -> bool:
        return type(other) is Foreign

    __hash__ = None  # type: ignore[assignment]


def test_windows_that_need_pickle_are_pickled_whole() -> None:
    logic = one_window([Foreign()])
    state = snapshot_of(logic)
    assert type(state) is CompactState
    assert came_back(state) == logic._logic.snapshot()


def test_an_error_names_the_path_as_in_the_snapshot() -> None:
    codec = Codec(allow_pickle=False).bind(namespace="n", flow_id="f", step="s")
    with pytest.raises(EncodeError, match=r"logic_states\[7\]\[0\]"):
        codec.encode("key", snapshot_of(one_window([Foreign()])))


@given(st.lists(st.lists(VALUES, max_size=3), max_size=4))
def test_a_join_of_any_values_comes_back(seen: list[list[Any]]) -> None:
    logic = _StatefulLogic(_JoinLogic("product", "final", _JoinState(seen)), lambda state: state)
    state = snapshot_of(logic)
    assert type(state) is CompactState
    assert came_back(state) == _JoinState(seen)
    assert CODEC.encode_all([("key", state)]) == {"key": CODEC.encode("key", state)}


@pytest.mark.parametrize("fields", [[1], [2, 5], [-1], [0, -2, 1], [1, 2, "x"], [None]])
def test_a_damaged_join_is_refused(fields: list[Any]) -> None:
    with pytest.raises(DecodeError):
        CODEC.decode("key", CODEC.encode("key", CompactState(JOIN, fields)))


def test_many_windows_are_written_as_one_is() -> None:
    states = [("a", snapshot_of(one_window(5))), ("b", snapshot_of(one_window([1, [2]])))]
    assert CODEC.encode_all(states) == {key: CODEC.encode(key, state) for key, state in states}
