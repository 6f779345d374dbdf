"""Fixed windows: the aggregation of one key's values into tumbling or sliding windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from bytewax_redis_state.dataflow.fast_paths.windows.key_windows import (
    NEVER,
    KeyWindows,
    is_steady,
    snapshot_of_windows,
    windows_of_snapshot,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_aggregator import WindowAggregator
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import (
    COUNT,
    REDUCE,
    FixedWindowConfig,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_times import WindowTimes
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["FixedWindowAggregator"]

_NEW = object()
_UTC = timezone.utc


class FixedWindowAggregator(WindowAggregator[KeyWindows]):
    """Aggregate values into tumbling or sliding windows.

    :arg config: Of the step.
    """

    discards = True
    config: FixedWindowConfig

    def __init__(self, config: FixedWindowConfig) -> None:
        super().__init__(config)
        self.times = WindowTimes(config)
        self._is_steady = is_steady(config.align_to)
        # The window of the last value: most often the next value, of any key, is in the same one.
        self._last: Sequence[int] = ()
        self._opens = self._closes = NEVER

    def begin(self, now: datetime) -> KeyWindows:
        """Make the object for a new key, which has no windows."""
        held = KeyWindows(now)
        if not self._is_steady:
            held.mark_unpredictable()
        return held

    def resume(self, snapshot: Any) -> KeyWindows:
        """Restore a key's windows as of the last committed epoch."""
        return windows_of_snapshot(snapshot, self.config, self.times)

    def snapshot(self, held: KeyWindows) -> Any:
        """Make Bytewax's snapshot, or a compact state that is read as it."""
        return snapshot_of_windows(held, self.times)

    def late_for(self, timestamp: datetime) -> Sequence[int]:
        """Give the windows that would have been open."""
        return self.config.windows_at(timestamp)

    def look_ahead(self, held: KeyWindows) -> None:
        """Compute again when the next window closes or the next waiting value is due."""
        held.look_ahead(self.times, ordered=self.config.ordered)

    def _fold(self, held: KeyWindows, entries: Iterable[tuple[Any, datetime]]) -> None:
        config, states = self.config, held.states
        kind, fold = config.kind, config.fold
        for value, timestamp in entries:
            if self._opens <= timestamp < self._closes and timestamp.tzinfo is _UTC:
                window_ids = self._last
            else:
                window_ids = self._windows_at(timestamp)
            for window_id in window_ids:
                state = states.get(window_id, _NEW)
                if state is _NEW:
                    state = self._open(held, window_id)
                if kind == COUNT:
                    states[window_id] = state + 1
                elif kind == REDUCE and state is None:
                    states[window_id] = value
                else:
                    states[window_id] = fold(state, value)

    def _windows_at(self, timestamp: datetime) -> Sequence[int]:
        config = self.config
        window_ids = config.windows_at(timestamp)
        if not config.overlaps and config.align_to.tzinfo is _UTC is timestamp.tzinfo:
            self._last = window_ids
            self._opens, self._closes = self.times[window_ids[0]]
        return window_ids

    def _open(self, held: KeyWindows, window_id: int) -> Any:
        closes = self.times[window_id][1]
        held.closes = min(held.closes, closes)
        held.next = min(held.next, closes)
        return None if self.config.kind == REDUCE else self.config.build()

    def _close(self, key: str, held: KeyWindows, watermark: datetime, items: Items) -> bool:
        states, times = held.states, self.times
        closed = [each for each in states if held.close_of(each, times) <= watermark]
        for window_id in closed:
            meta = held.meta(window_id, times)
            items.append((key, (window_id, "E", states.pop(window_id))))
            items.append((key, (window_id, "M", meta)))
            if held.irregular is not None:
                held.irregular.pop(window_id, None)
        return bool(closed)
