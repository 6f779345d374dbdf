"""Session windows: the aggregation of one key's values into sessions.

Bytewax's own windower decides to which session a value belongs, and which sessions are merged. It
is not asked where a key has a single session, which is the common case. Invariant: the sessions of
a key are at all times those that Bytewax's own logic would have.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Any

from bytewax.operators.windowing import (
    LATE_SESSION_ID,
    UTC_MIN,
    _EventClockState,
    _SessionWindowerLogic,
    _WindowSnapshot,
)

from bytewax_redis_state.codec.compact_state import TICK
from bytewax_redis_state.codec.exactness import is_flat
from bytewax_redis_state.dataflow.fast_paths.windows.key_windows import NEVER, KeyWindows, is_steady
from bytewax_redis_state.dataflow.fast_paths.windows.window_aggregator import WindowAggregator
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import (
    COUNT,
    REDUCE,
    SessionWindowConfig,
)
from bytewax_redis_state.dataflow.shards.logic_snapshots import session_snapshot
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["KeySessions", "SessionWindowAggregator"]

_NEW = object()
_UTC = timezone.utc
_ZERO = timedelta(0)


class KeySessions(KeyWindows):
    """The clock, the sessions and the waiting values of one key.

    :arg now: The system's time at which the key's clock starts.
    :arg windower: Bytewax's, of this key; it holds the sessions' times.
    """

    __slots__ = ("windower",)

    def __init__(self, now: datetime, windower: _SessionWindowerLogic) -> None:
        super().__init__(now)
        self.windower = windower


class SessionWindowAggregator(WindowAggregator[KeySessions]):
    """Aggregate values into session windows.

    :arg config: Of the step.
    """

    # A key without sessions is kept: the ID of its next session follows from its last one.
    discards = False
    config: SessionWindowConfig

    def begin(self, now: datetime) -> KeySessions:
        """Make the object for a new key, which has no sessions."""
        return KeySessions(now, self.config.windower.build(None))

    def resume(self, snapshot: Any) -> KeySessions:
        """Restore a key's sessions as of the last committed epoch."""
        config = self.config
        held = KeySessions(config.now(), config.windower.build(snapshot.windower_state))
        held.resume(snapshot)
        if not all(is_steady(meta.close_time) for meta in held.windower.state.sessions.values()):
            held.mark_unpredictable()
        for window_id, state in snapshot.logic_states.items():
            is_none = state is None and config.kind != REDUCE
            held.states[window_id] = config.build() if is_none else state
        self.look_ahead(held)
        return held

    def snapshot(self, held: KeySessions) -> Any:
        """Make Bytewax's snapshot, or a compact state that is read as it."""
        clock, sessions = _EventClockState(held.since, held.base), held.windower.state
        states = {
            window_id: state if is_flat(state) else deepcopy(state)
            for window_id, state in held.states.items()
        }
        windows = session_snapshot(clock, sessions, states, held.queue)
        return windows or _WindowSnapshot(clock, sessions, states, held.queue)

    def late_for(self, timestamp: datetime) -> Iterable[int]:
        """Give the ID that stands for all sessions."""
        return (LATE_SESSION_ID,)

    def look_ahead(self, held: KeySessions) -> None:
        """Compute again when the next session closes or the next waiting value is due."""
        self._look_at_sessions(held)
        if self.config.ordered and not held.unpredictable:
            for _value, timestamp in held.queue:
                held.next = min(held.next, timestamp)

    def _look_at_sessions(self, held: KeySessions) -> None:
        sessions = held.windower.state.sessions
        if not sessions:
            held.closes = NEVER
        else:
            held.closes = min(meta.close_time for meta in sessions.values()) + held.windower.gap
        if held.unpredictable:
            held.next = UTC_MIN
        else:
            # Bytewax closes a session when the watermark is beyond the gap, not at its end.
            held.next = held.closes + TICK if held.closes < NEVER else NEVER

    def _fold(self, held: KeySessions, entries: Iterable[tuple[Any, datetime]]) -> None:
        config, states, windower = self.config, held.states, held.windower
        kind, fold, gap = config.kind, config.fold, windower.gap
        state_of_windower = windower.state
        sessions = state_of_windower.sessions
        moved = False
        for value, timestamp in entries:
            moved = True
            window_id = 0
            found = False
            if len(sessions) == 1 and timestamp.tzinfo is _UTC:
                ((window_id, meta),) = sessions.items()
                if meta.open_time <= timestamp:
                    beyond = timestamp - meta.close_time
                    found = beyond <= gap
                    if found and beyond > _ZERO:
                        meta.close_time = timestamp
            if not found:
                (window_id,) = windower.open_for(timestamp)
            state = states.get(window_id, _NEW)
            if state is _NEW:
                state = None if kind == REDUCE else config.build()
            if kind == COUNT:
                states[window_id] = state + 1
            elif kind == REDUCE and state is None:
                states[window_id] = value
            else:
                states[window_id] = fold(state, value)
        if state_of_windower.merge_queue:
            moved = True
            for original, target in windower.merged():
                if target != original:
                    consumed = states.pop(original)
                    states[target] = config.merge(states[target], consumed)
        if moved:
            self._look_at_sessions(held)

    def _close(self, key: str, held: KeySessions, watermark: datetime, items: Items) -> bool:
        closed = held.windower.close_for(watermark)
        for window_id, meta in closed:
            items.append((key, (window_id, "E", held.states.pop(window_id))))
            items.append((key, (window_id, "M", meta)))
        return bool(closed)
