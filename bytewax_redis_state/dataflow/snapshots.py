"""States of Bytewax's own logics without the copy that ``snapshot()`` makes of them.

A shard encodes a state before anything can change it, so a copy protects nothing; and copying a
window's state costs more than encoding it. Invariant: what comes out equals ``snapshot()``, or is
read as what equals it. Where a state could hold the same object in two places, or an object that
copies itself in its own way, ``snapshot()`` is what is used.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timezone
from typing import Any

from bytewax.operators import StatefulBatchLogic, _StatefulFlatMapLogic, _StatefulLogic
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

from bytewax_redis_state.codec.survey import is_flat
from bytewax_redis_state.codec.windows import FIXED, SESSIONS, Windows, microseconds

__all__ = ["snapshot_of", "window_snapshot"]

_UTC = {timezone.utc}
_OWN_WINDOWERS = (_SlidingWindowerLogic, _SessionWindowerLogic)


def snapshot_of(logic: StatefulBatchLogic[Any, Any, Any]) -> Any:
    """Give a logic's state, to be encoded at once.

    :arg logic: Any logic of a key.
    :returns: What ``logic.snapshot()`` would give, perhaps not a copy.
    """
    if type(logic) is _StatefulLogic and type(logic.logic) is _StatefulFlatMapLogic:
        state = logic.logic.state
        if state is not None and is_flat(state):
            return state
    return logic.snapshot()


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


def _fixed(clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]) -> Windows | None:
    opened: dict[int, WindowMetadata] = windower.opened
    numbers = _numbers(clock, opened, states)
    if numbers is None or any(meta.merged_ids for meta in opened.values()):
        return None
    fields: list[Any] = [*numbers[:2], queue or None]
    at = 2
    for window_id, state in states.items():
        fields += (window_id, numbers[at], numbers[at + 1] - numbers[at], state)
        at += 2
    return Windows(FIXED, fields)


def _sessions(
    clock: Any, windower: Any, states: dict[int, Any], queue: list[Any]
) -> Windows | None:
    sessions: dict[int, WindowMetadata] = windower.sessions
    numbers = _numbers(clock, sessions, states)
    if numbers is None:
        return None
    fields: list[Any] = [
        *numbers[:2],
        queue or None,
        windower.max_key,
        windower.merge_queue or None,
    ]
    at = 2
    for window_id, state in states.items():
        merged = sessions[window_id].merged_ids
        length = numbers[at + 1] - numbers[at]
        fields += (window_id, numbers[at], length, [*merged] if merged else None, state)
        at += 2
    return Windows(SESSIONS, fields)


def _numbers(
    clock: Any, metadata: dict[int, WindowMetadata], states: dict[int, Any]
) -> list[int] | None:
    """Give since, base, and each window's start and end; ``None`` where they don't fit."""
    times = [clock.system_time_of_max_event, clock.watermark_base]
    for meta in metadata.values():
        times += (meta.open_time, meta.close_time)
    if [*metadata] != [*states] or {time.tzinfo for time in times} != _UTC:
        return None
    return [microseconds(time) for time in times]


def _of_window(window: WindowLogic[Any, Any, Any]) -> Any:
    if type(window) is _FoldWindowLogic and is_flat(window.state):
        return window.state
    return window.snapshot()
