"""States of Bytewax's own logics without the copy that ``snapshot()`` makes of them.

A shard encodes a state before anything can change it, so a copy protects nothing; and copying a
window's state costs more than encoding it. Invariant: what comes out equals ``snapshot()``. Where
a state could hold the same object in two places, or an object that copies itself in its own way,
``snapshot()`` is what is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bytewax.operators import StatefulBatchLogic, _StatefulFlatMapLogic, _StatefulLogic
from bytewax.operators.windowing import (
    WindowLogic,
    _EventClockLogic,
    _FoldWindowLogic,
    _SessionWindowerLogic,
    _SlidingWindowerLogic,
    _WindowLogic,
    _WindowSnapshot,
)

from bytewax_redis_state.codec.survey import is_flat

__all__ = ["snapshot_of", "window_snapshot"]

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

    def snapshot() -> Any:
        # Clock and windower hold times and numbers, which nothing else refers to.
        states = {window_id: _of_window(window) for window_id, window in logic.logics.items()}
        return _WindowSnapshot(clock.state, windower.state, states, logic.queue)

    return snapshot


def _of_window(window: WindowLogic[Any, Any, Any]) -> Any:
    if type(window) is _FoldWindowLogic and is_flat(window.state):
        return window.state
    return window.snapshot()
