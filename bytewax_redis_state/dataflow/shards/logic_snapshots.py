"""Snapshots of Bytewax's own logics, without the deep copy that their ``snapshot()`` makes.

A shard encodes a state before anything can change it, so a copy protects nothing, and copying a
window's state costs more than encoding it. Windows and joins become a :class:`.CompactState`.

Invariant: a state equals ``snapshot()``, or is read as an object that equals it. A state that may
hold one object in two places, or an object with a copy method of its own, is left to
``snapshot()``.
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

from bytewax_redis_state.codec.compact_state import EPOCH, FIXED, JOIN, SESSIONS, TICK, CompactState
from bytewax_redis_state.codec.exactness import is_flat

__all__ = ["add_queue", "join_snapshot", "session_snapshot", "snapshot_of", "window_snapshot"]

_UTC = timezone.utc
_OWN_WINDOWERS = (_SlidingWindowerLogic, _SessionWindowerLogic)


def snapshot_of(logic: StatefulBatchLogic[Any, Any, Any]) -> Any:
    """Give a logic's state, to be encoded at once.

    :arg logic: Any logic of a key.
    :returns: The state as ``logic.snapshot()`` would give it, but perhaps not a copy.
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


def join_snapshot(sides: Iterable[Sequence[Any]]) -> CompactState:
    """Make the compact state of a join.

    :arg sides: The values of each side.
    :returns: The compact state; its values are copied, unless they are flat.
    """
    fields: list[Any] = []
    for values in sides:
        fields.append(len(values))
        fields += values
    return CompactState(JOIN, fields if is_flat(fields) else deepcopy(fields))


def window_snapshot(logic: _WindowLogic[Any, Any, Any, Any, Any]) -> Callable[[], Any]:
    """Choose the function that takes the state of all windows of one key.

    :arg logic: Of ``window`` and every operator built on it.
    :returns: The function to call instead of ``logic.snapshot``.
    """
    clock: Any = logic.clock
    windower: Any = logic.windower
    if type(clock) is not _EventClockLogic or type(windower) not in _OWN_WINDOWERS:
        return logic.snapshot

    compact = _fixed if type(windower) is _SlidingWindowerLogic else session_snapshot

    def snapshot() -> Any:
        # No copy: the states of clock and windower hold times and numbers only.
        states = {window_id: _of_window(window) for window_id, window in logic.logics.items()}
        clock_state, windower_state, queue = clock.state, windower.state, logic.queue
        windows = compact(clock_state, windower_state, states, queue)
        return windows or _WindowSnapshot(clock_state, windower_state, states, queue)

    return snapshot


# The functions below run for each changed key of an epoch, so they make as few calls as they can.


def _fixed(
    clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]
) -> CompactState | None:
    fields = _clock_and_queue(clock, queue)
    opened: dict[int, WindowMetadata] = windower.opened
    if fields is None or len(opened) != len(states):
        return None
    for (window_id, meta), (state_id, state) in zip(opened.items(), states.items(), strict=True):
        opens, closes = meta.open_time, meta.close_time
        if window_id != state_id or meta.merged_ids or not opens.tzinfo is _UTC is closes.tzinfo:
            return None
        fields += (window_id, (opens - EPOCH) // TICK, (closes - opens) // TICK, state)
    return CompactState(FIXED, fields)


def session_snapshot(
    clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]
) -> CompactState | None:
    """Make the compact state of all sessions of a key.

    :arg clock: State of the clock.
    :arg windower: State of the windower.
    :arg states: Session ID to state.
    :arg queue: Waiting values and their times.
    :returns: The compact state; ``None`` where it can't hold the state, as with times that are not
        in UTC.
    """
    fields = _clock_and_queue(clock, queue)
    sessions: dict[int, WindowMetadata] = windower.sessions
    if fields is None or len(sessions) != len(states):
        return None
    fields += (windower.max_key, windower.merge_queue or None)
    for (window_id, meta), (state_id, state) in zip(sessions.items(), states.items(), strict=True):
        opens, closes = meta.open_time, meta.close_time
        if window_id != state_id or not opens.tzinfo is _UTC is closes.tzinfo:
            return None
        start, length = (opens - EPOCH) // TICK, (closes - opens) // TICK
        fields += (window_id, start, length, [*meta.merged_ids] or None, state)
    return CompactState(SESSIONS, fields)


def _clock_and_queue(clock: Any, queue: list[tuple[Any, datetime]]) -> list[Any] | None:
    since, base = clock.system_time_of_max_event, clock.watermark_base
    if not since.tzinfo is _UTC is base.tzinfo:
        return None
    return add_queue(queue, [(since - EPOCH) // TICK, (base - EPOCH) // TICK])


def add_queue(queue: list[tuple[Any, datetime]], fields: list[Any]) -> list[Any] | None:
    """Add a queue to the fields of a :class:`.CompactState`.

    :arg queue: Waiting values and their times.
    :arg fields: The two times of the clock; the queue is added to them.
    :returns: The fields; ``None`` where a time is not in UTC.
    """
    fields.append(len(queue))
    for value, timestamp in queue:
        if timestamp.tzinfo is not _UTC or timestamp.fold:
            return None
        fields += (value, (timestamp - EPOCH) // TICK)
    return fields


def _of_window(window: WindowLogic[Any, Any, Any]) -> Any:
    if type(window) is _FoldWindowLogic and is_flat(window.state):
        return window.state
    return window.snapshot()
