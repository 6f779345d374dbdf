"""A window sleeps until its watermark can close something; a call in vain changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow.shards import deferred_window
from bytewax_redis_state.dataflow.shards.deferred_window import DeferredWindow
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from tests.dataflow.deltas import changes_of
from tests.dataflow.operator_catalog import LastTwo
from tests.dataflow.recording import RecordingCodec
from tests.dataflow.shards.test_timers import ScriptSource, now

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
TICK = timedelta(microseconds=1)
PAUSE_MS = 4000
SHAPES: dict[str, win.Windower[Any]] = {
    "tumbling": win.TumblingWindower(length=timedelta(seconds=10), align_to=NOON),
    "sliding": win.SlidingWindower(
        length=timedelta(seconds=10), offset=timedelta(seconds=4), align_to=NOON
    ),
    "session": win.SessionWindower(gap=timedelta(seconds=8)),
}


class Wall:
    """Stands in for the system's clock, which can't be stopped."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def __deepcopy__(self, _memo: Any) -> Wall:
        return self


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wall]:
    wall = Wall()
    monkeypatch.setattr(deferred_window, "_get_system_utc", wall)
    monkeypatch.setattr(win, "_get_system_utc", wall)
    return wall


def event_clock(now_getter: Callable[[], datetime], wait: float = 3) -> win.EventClock[Any]:
    return win.EventClock(
        ts_getter=lambda value: value[0],
        wait_for_system_duration=timedelta(seconds=wait),
        now_getter=now_getter,
    )


def window_logic(clock: Any, windower: Any, *, ordered: bool) -> Any:
    return win._WindowLogic(clock.build(None), windower.build(None), LastTwo, ordered)


def puts_something_out(logic: Any, wall: Wall, at: datetime) -> bool:
    """Tell whether stock's notification at a time would change anything."""
    trial, before = copy.deepcopy(logic), wall.time
    queued = len(trial.queue)
    wall.time = at
    events, _is_complete = trial.on_notify()
    wall.time = before
    return bool(events) or len(trial.queue) != queued


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("age", [-3600, -1, 0, 1, 5])
@pytest.mark.parametrize("clock", ["event", "system"])
def test_a_window_wakes_at_the_first_moment_that_changes_something(
    wall: Wall, shape: str, ordered: bool, age: int, clock: str
) -> None:
    now_getter: Any = wall
    made = event_clock(now_getter) if clock == "event" else win.SystemClock()
    logic = window_logic(made, SHAPES[shape], ordered=ordered)
    deferred = DeferredWindow(logic)
    first = NOON + timedelta(seconds=age)
    later = (4, 1, 13, 2)
    deferred.on_batch([(first + timedelta(seconds=second), second) for second in later])
    for _ in range(30):
        wish = deferred.notify_at()
        if wish is None:
            break
        stock_wish = logic.notify_at()
        if wish > stock_wish:
            assert not puts_something_out(logic, wall, wish - TICK)
            assert puts_something_out(logic, wall, wish)
        else:
            assert wish == stock_wish
        wall.time = max(wish, wall.time)
        deferred.on_notify()
    assert not logic.logics
    assert not logic.queue


def windowed_shard(wall: Wall, shape: str) -> ShardLogic:
    def builder(_state: Any) -> Any:
        return window_logic(event_clock(wall), SHAPES[shape], ordered=True)

    return ShardLogic("flow.window", builder, RecordingCodec())


def changed(shard: ShardLogic) -> set[str]:
    return set(changes_of(shard.snapshot()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_notification_in_vain_is_no_change(wall: Wall, shape: str) -> None:
    shard = windowed_shard(wall, shape)
    shard.on_batch([{"a": [(NOON - timedelta(hours=1), 1)]}])
    assert changed(shard) == {"a"}
    shard._timers.set("a", NOON)
    assert shard.on_notify() == ((), False)
    assert changed(shard) == set()
    # Out of the queue into a window: nothing is put out but the pair, and the state is another.
    wall.time += timedelta(seconds=3)
    shard._timers.set("a", NOON)
    assert shard.on_notify() != ((), False)
    assert changed(shard) == {"a"}


def test_an_idle_session_is_no_change_at_the_end(wall: Wall) -> None:
    shard = windowed_shard(wall, "session")
    shard.on_batch([{"a": [(NOON, 1)], "b": [(NOON, 1)]}])
    wall.time += timedelta(seconds=3)
    shard.on_batch([{"b": [(NOON + timedelta(seconds=3), 2)]}])
    wall.time += timedelta(seconds=60)
    shard._timers.set("a", NOON)
    shard.on_notify()
    assert changed(shard) == {"a", "b"}
    shard.on_eof()
    assert changed(shard) == {"b"}


def test_a_clock_that_cannot_be_foretold_is_asked_a_little_later_each_time() -> None:
    logic = window_logic(event_clock(lambda: NOON), SHAPES["tumbling"], ordered=False)
    deferred = DeferredWindow(logic)
    deferred.on_batch([(NOON, 1)])
    assert deferred.notify_at() == NOON + timedelta(seconds=10)
    delays = []
    for _ in range(10):
        deferred.on_notify()
        wish = deferred.notify_at()
        assert wish is not None
        delays.append((wish - now()) / timedelta(milliseconds=1))
    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 50, 50, 50, 50], abs=1)


def test_a_window_of_the_users_own_parts_counts_as_changed() -> None:
    class OwnWindower(win.TumblingWindower):
        def build(self, resume_state: Any) -> Any:
            return OwnLogic(self.length, self.length, self.align_to, win._SlidingWindowerState())

    class OwnLogic(win._SlidingWindowerLogic):
        pass

    own = OwnWindower(length=timedelta(seconds=10), align_to=NOON)
    deferred = DeferredWindow(window_logic(event_clock(lambda: NOON), own, ordered=False))
    deferred.on_batch([(NOON, 1)])
    deferred.on_notify()
    assert deferred.changed


def late_windows(record: list[Any]) -> Dataflow:
    """Windows over hour-old events, which close 0.2 s after the last of them; then a pause."""
    old = now() - timedelta(hours=1)
    items = [("a", (old, 1)), ("b", (old, 2)), ("a", (old + timedelta(milliseconds=50), 3))]
    flow = Dataflow("late")
    events = op.input("in", flow, ScriptSource([(0, items), (PAUSE_MS, [])]))
    clock = win.EventClock(
        ts_getter=lambda value: value[0], wait_for_system_duration=timedelta(milliseconds=100)
    )
    windower = win.TumblingWindower(length=timedelta(milliseconds=100), align_to=old)
    closed = win.collect_window("window", events, clock, windower)
    told = op.map("when", closed.down, lambda item: (item[0], item[1][1], now()))
    op.output("out", told, TestingSink(record))
    return flow


def test_past_windows_close_when_they_do_in_stock_and_nothing_spins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    stock_notify = win._WindowLogic.on_notify
    monkeypatch.setattr(
        win._WindowLogic, "on_notify", lambda self: calls.append(self) or stock_notify(self)
    )
    outputs, counts, taken = [], [], []
    for sharded in (False, True):
        record: list[Any] = []
        calls.clear()
        flow = late_windows(record)
        start = now()
        run_main(shard_stateful_steps(flow) if sharded else flow)
        outputs.append(sorted((key, [value for _at, value in values]) for key, values, _ in record))
        counts.append(len(calls))
        taken.append(max(at for _key, _values, at in record) - start)
    assert outputs[0] == outputs[1] == [("a", [1, 3]), ("b", [2])]
    assert counts[0] > 50
    assert counts[1] < 15
    # A window that waited for the end of the input would close after the whole pause.
    assert max(taken) < timedelta(milliseconds=PAUSE_MS / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_system_clock_that_is_set_back_stands_still(wall: Wall, shape: str) -> None:
    logic = window_logic(win.SystemClock(), SHAPES[shape], ordered=True)
    deferred = DeferredWindow(logic)
    deferred.on_batch([(NOON, 1)])
    wall.time = NOON - timedelta(seconds=30)
    deferred.on_batch([(NOON, 2)])
    deferred.on_notify()
    assert {window.snapshot() for window in logic.logics.values()} == {2}
    wall.time = NOON + timedelta(seconds=40)
    deferred.on_notify()
    assert not logic.logics
