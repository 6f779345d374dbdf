"""States of Bytewax's own logics without the copy that ``snapshot()`` makes of them.

A shard encodes a state before anything can change it, so a copy protects nothing; and copying a
window's state costs more than encoding it. Invariant: what comes out equals ``snapshot()``, or is
read as what equals it. Where a state could hold the same object in two places, or an object that
copies itself in its own way, ``snapshot()`` is what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import datetime, timezone
from typing import Any

from bytewax.operators import (
    StatefulBatchLogic,
    _JoinLogic,
    _StatefulFlatMapLogic,
    _StatefulLogic,
)
from bytewax.operators.windowing import (
    WindowLogic,
    WindowMetadata,
    _EventClockLogic,
    _FoldWindowLogic,
    _SessionWindowerLogic,
    _SlidingWindowerLogic,
    _WindowLogic,
    _WindowSnapshot,
)

from bytewax_redis_state.codec.brief import FIXED, JOIN, SESSIONS, Brief, microseconds
from bytewax_redis_state.codec.survey import is_flat

__all__ = ["join_snapshot", "snapshot_of", "waiting", "window_snapshot"]

_OWN_WINDOWERS = (_SlidingWindowerLogic, _SessionWindowerLogic)


def snapshot_of(logic: StatefulBatchLogic[Any, Any, Any]) -> Any:
    """Give a logic's state, to be encoded at once.

    :arg logic: Any logic of a key.
    :returns: What ``logic.snapshot()`` would give, perhaps not a copy.
    """
    if type(logic) is _StatefulLogic:
        inner: Any = logic.logic
        kind = type(inner)
        if kind is _StatefulFlatMapLogic:
            if inner.state is not None and is_flat(inner.state):
                return inner.state
        elif kind is _JoinLogic:
            return join_snapshot(inner.state.seen)
    return logic.snapshot()


def join_snapshot(sides: Iterable[Sequence[Any]]) -> Brief:
    """Give what is read as the state of a join.

    :arg sides: The values of each.
    :returns: A copy, where that could be another one.
    """
    fields: list[Any] = []
    for values in sides:
        fields.append(len(values))
        fields += values
    return Brief(JOIN, fields if is_flat(fields) else deepcopy(fields))


def window_snapshot(logic: _WindowLogic[Any, Any, Any, Any, Any]) -> Callable[[], Any]:
    """Find how to take the state of all windows of one key.

    :arg logic: Of ``window`` and every operator built on it.
    :returns: What to call instead of ``logic.snapshot``.
    """
    clock: Any = logic.clock
    windower: Any = logic.windower
    if type(clock) is not _EventClockLogic or type(windower) not in _OWN_WINDOWERS:
        return logic.snapshot

    brief = _fixed if type(windower) is _SlidingWindowerLogic else _sessions

    def snapshot() -> Any:
        # Clock and windower hold times and numbers, which nothing else refers to.
        states = {window_id: _of_window(window) for window_id, window in logic.logics.items()}
        clock_state, windower_state, queue = clock.state, windower.state, logic.queue
        windows = brief(clock_state, windower_state, states, queue)
        return windows or _WindowSnapshot(clock_state, windower_state, states, queue)

    return snapshot


def _fixed(clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]) -> Brief | None:
    opened: dict[int, WindowMetadata] = windower.opened
    fields = _clock_and_queue(clock, queue)
    numbers = _numbers(opened, states)
    if fields is None or numbers is None or any(meta.merged_ids for meta in opened.values()):
        return None
    at = 0
    for window_id, state in states.items():
        fields += (window_id, numbers[at], numbers[at + 1] - numbers[at], state)
        at += 2
    return Brief(FIXED, fields)


def _sessions(clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]) -> Brief | None:
    sessions: dict[int, WindowMetadata] = windower.sessions
    fields = _clock_and_queue(clock, queue)
    numbers = _numbers(sessions, states)
    if fields is None or numbers is None:
        return None
    fields += (windower.max_key, windower.merge_queue or None)
    at = 0
    for window_id, state in states.items():
        merged = sessions[window_id].merged_ids
        length = numbers[at + 1] - numbers[at]
        fields += (window_id, numbers[at], length, [*merged] if merged else None, state)
        at += 2
    return Brief(SESSIONS, fields)


def _clock_and_queue(clock: Any, queue: list[tuple[Any, datetime]]) -> list[Any] | None:
    since, base = clock.system_time_of_max_event, clock.watermark_base
    if not since.tzinfo is timezone.utc is base.tzinfo:
        return None
    return waiting(queue, [microseconds(since), microseconds(base)])


def waiting(queue: list[tuple[Any, datetime]], fields: list[Any]) -> list[Any] | None:
    """Add a queue to the fields of :class:`.Brief`.

    :arg queue: Values and their times.
    :arg fields: Gets them; its first two are there.
    :returns: The fields; ``None`` where the times don't fit.
    """
    fields.append(len(queue))
    for value, timestamp in queue:
        if timestamp.tzinfo is not timezone.utc or timestamp.fold:
            return None
        fields += (value, microseconds(timestamp))
    return fields


def _numbers(metadata: dict[int, WindowMetadata], states: dict[int, Any]) -> list[int] | None:
    """Give each window's start and end; ``None`` where they don't fit."""
    times = [time for meta in metadata.values() for time in (meta.open_time, meta.close_time)]
    if [*metadata] != [*states] or any(time.tzinfo is not timezone.utc for time in times):
        return None
    return [microseconds(time) for time in times]


def _of_window(window: WindowLogic[Any, Any, Any]) -> Any:
    if type(window) is _FoldWindowLogic and is_flat(window.state):
        return window.state
    return window.snapshot()
