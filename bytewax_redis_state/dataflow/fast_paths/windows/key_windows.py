"""The windows of one key in one object, and their conversion to and from Bytewax's snapshot.

Invariant: :func:`snapshot_of_windows` gives the snapshot that Bytewax's own logic would give after
the same calls, and :func:`windows_of_snapshot` reads every snapshot of that logic.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime, timezone
from typing import Any

from bytewax.operators.windowing import (
    UTC_MAX,
    UTC_MIN,
    WindowMetadata,
    _EventClockState,
    _SlidingWindowerState,
    _WindowSnapshot,
)

from bytewax_redis_state.codec.compact_state import FIXED, CompactState, microseconds
from bytewax_redis_state.codec.exactness import is_flat
from bytewax_redis_state.codec.extension_types import SCALARS
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import (
    REDUCE,
    FixedWindowConfig,
)
from bytewax_redis_state.dataflow.fast_paths.windows.window_times import WindowTimes
from bytewax_redis_state.dataflow.shards.logic_snapshots import add_queue

__all__ = ["NEVER", "KeyWindows", "is_steady", "snapshot_of_windows", "windows_of_snapshot"]

NEVER = UTC_MAX
"""A watermark that is reached at the end of input only."""

_UTC = timezone.utc
Queue = list[tuple[Any, datetime]]


def is_steady(time: datetime) -> bool:
    """Tell whether a time's zone has a fixed offset.

    In other zones Python adds by the wall clock, which jumps when summer time begins or ends.
    """
    return isinstance(time.tzinfo, timezone)


class KeyWindows:
    """The clock, the open windows and the waiting values of one key.

    :arg now: The system's time at which the key's clock starts.
    """

    __slots__ = (
        *(
            "base",
            "unpredictable",
            "closes",
            "next",
            "now",
            "irregular",
            "queue",
            "since",
            "states",
            "fruitless",
        ),
    )

    def __init__(self, now: datetime) -> None:
        self.now = now
        """The system's time when it was last read; it never goes back, not even at a resume."""
        self.since = now
        """When the watermark was at ``base``; from then on it moves with the system's time."""
        self.base = UTC_MIN
        self.states: dict[int, Any] = {}
        """Window ID to state of the open windows, in the order in which they opened."""
        self.queue: Queue = []
        """Values that wait for the watermark, in the order in which they came."""
        self.closes = NEVER
        """The watermark at which the first window closes."""
        self.next = NEVER
        """The watermark at which a window closes or a waiting value is due, whichever is first."""
        self.unpredictable = False
        """Whether ``next`` can't be foretold, because a time is in a zone whose offset changes."""
        self.irregular: dict[int, WindowMetadata] | None = None
        """Windows whose times differ from those of their IDs: the step had other windows before."""
        self.fruitless = 0
        """Number of notifications without effect since the last one that had an effect."""

    def mark_unpredictable(self) -> None:
        """Have every value and notification look for windows to close and values that are due."""
        self.unpredictable = True
        self.next = UTC_MIN

    def resume(self, snapshot: Any) -> None:
        """Take the clock and the waiting values from Bytewax's snapshot."""
        clock = snapshot.clock_state
        if clock is not None:
            self.base = clock.watermark_base
            if not clock.system_time_of_max_event <= UTC_MIN:
                self.since = clock.system_time_of_max_event
                # This host's clock may be behind the writer's; then it stands still until there.
                self.now = max(self.now, self.since)
        self.queue = snapshot.queue
        if not all(map(is_steady, [self.base, *(at for _value, at in self.queue)])):
            self.mark_unpredictable()

    def meta(self, window_id: int, times: WindowTimes) -> WindowMetadata:
        """Give the metadata of an open window."""
        if self.irregular is not None and window_id in self.irregular:
            return self.irregular[window_id]
        return WindowMetadata(*times[window_id])

    def close_of(self, window_id: int, times: WindowTimes) -> datetime:
        """Tell when an open window closes."""
        if self.irregular is not None and window_id in self.irregular:
            return self.irregular[window_id].close_time
        return times[window_id][1]

    def look_ahead(self, times: WindowTimes, *, ordered: bool) -> None:
        """Compute ``closes`` and ``next`` again."""
        closes = NEVER
        for window_id in self.states:
            closes = min(closes, self.close_of(window_id, times))
        self.closes = self.next = closes
        if ordered:
            for _value, timestamp in self.queue:
                self.next = min(self.next, timestamp)
        if self.unpredictable:
            self.next = UTC_MIN


def snapshot_of_windows(held: KeyWindows, times: WindowTimes) -> Any:
    """Make Bytewax's snapshot, or a compact state that is read as it.

    :arg held: Not changed.
    :arg times: Of the step's windows.
    :returns: The snapshot, to be encoded at once: it shares objects with the windows.
    """
    since, base, fields = held.since, held.base, None
    if held.irregular is None and times.in_utc and since.tzinfo is _UTC is base.tzinfo:
        fields = add_queue(held.queue, [times.clock_numbers[since], microseconds(base)])
    if fields is not None:
        for window_id, state in held.states.items():
            kept = state if type(state) in SCALARS or is_flat(state) else deepcopy(state)
            fields += (window_id, *times.numbers[window_id], kept)
        return CompactState(FIXED, fields)
    return _WindowSnapshot(
        _EventClockState(held.since, held.base),
        _SlidingWindowerState(
            {window_id: held.meta(window_id, times) for window_id in held.states}
        ),
        {
            window_id: state if is_flat(state) else deepcopy(state)
            for window_id, state in held.states.items()
        },
        held.queue,
    )


def windows_of_snapshot(snapshot: Any, config: FixedWindowConfig, times: WindowTimes) -> KeyWindows:
    """Restore a key's windows as of the last committed epoch.

    :arg snapshot: Bytewax's, of the same step.
    :arg config: Of the step.
    :arg times: Of the step's windows.
    :returns: The key's windows.
    """
    held = KeyWindows(config.now())
    held.resume(snapshot)
    if not is_steady(config.align_to):
        held.mark_unpredictable()
    states = snapshot.logic_states
    for window_id, meta in snapshot.windower_state.opened.items():
        state = states[window_id]
        if state is None and config.kind != REDUCE:
            state = config.build()
        held.states[window_id] = state
        if not is_steady(meta.close_time):
            held.mark_unpredictable()
        if not _is_plain(window_id, meta, times):
            held.irregular = {**(held.irregular or {}), window_id: meta}
    held.look_ahead(times, ordered=config.ordered)
    return held


def _is_plain(window_id: int, meta: WindowMetadata, times: WindowTimes) -> bool:
    """Tell whether a window's times are those of its ID."""
    try:
        interval = times[window_id]
    except OverflowError:
        # The step had shorter windows before: among its own, this ID lies beyond the last year.
        return False
    kept = meta.open_time, meta.close_time
    zones = [time.tzinfo for time in (*kept, *interval)]
    return kept == interval and not meta.merged_ids and zones[:2] == zones[2:]
