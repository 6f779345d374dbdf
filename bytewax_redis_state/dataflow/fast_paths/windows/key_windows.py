"""All windows of one key in one object, and how it becomes Bytewax's snapshot and comes back.

Invariant: what :func:`snapshot_of_windows` gives equals what Bytewax's own logic would give after
the same calls, and :func:`windows_of_snapshot` takes whatever that gives.
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
from bytewax_redis_state.codec.shapes import LEAVES
from bytewax_redis_state.codec.survey import is_flat
from bytewax_redis_state.dataflow.fast_paths.windows.window_rules import REDUCE, Span, WindowRules
from bytewax_redis_state.dataflow.fast_paths.windows.window_times import WindowTimes
from bytewax_redis_state.dataflow.shards.snapshots import waiting

__all__ = ["NEVER", "KeyWindows", "is_steady", "snapshot_of_windows", "windows_of_snapshot"]

NEVER = UTC_MAX
"""A watermark that only the end of input reaches."""

_UTC = timezone.utc
Queue = list[tuple[Any, datetime]]


def is_steady(time: datetime) -> bool:
    """Tell whether a time is of a zone whose clock never jumps: others add by what it shows."""
    return isinstance(time.tzinfo, timezone)


class KeyWindows:
    """The clock, the open windows and the waiting values of one key.

    :arg now: The system's time at which its clock starts.
    """

    __slots__ = (
        *("base", "blind", "closes", "next", "now", "odd", "queue", "since", "states", "vain"),
    )

    def __init__(self, now: datetime) -> None:
        self.now = now
        """The system's time as last seen: it never goes back."""
        self.since = now
        """When the watermark was at its base; it goes on with the system's time."""
        self.base = UTC_MIN
        self.states: dict[int, Any] = {}
        """Of the open windows, in the order in which they opened."""
        self.queue: Queue = []
        """Values that wait for the watermark, in the order in which they came."""
        self.closes = NEVER
        """When the first window closes."""
        self.next = NEVER
        """The watermark at which the next thing happens."""
        self.blind = False
        """Whether what happens when can't be told beforehand: times of a zone whose clock jumps."""
        self.odd: dict[int, WindowMetadata] | None = None
        """Windows with other times than their IDs stand for: the step was another one before."""
        self.vain = 0
        """How often it was notified in vain since something happened."""

    def be_blind(self) -> None:
        """Look whether something happens each time that there is a reason to."""
        self.blind = True
        self.next = UTC_MIN

    def resume(self, snapshot: Any) -> None:
        """Take in the clock and the values that wait, of Bytewax's snapshot."""
        clock = snapshot.clock_state
        if clock is not None:
            self.base = clock.watermark_base
            if not clock.system_time_of_max_event <= UTC_MIN:
                self.since = clock.system_time_of_max_event
        self.queue = snapshot.queue
        if not all(map(is_steady, [self.base, *(at for _value, at in self.queue)])):
            self.be_blind()

    def meta(self, window_id: int, spans: WindowTimes) -> WindowMetadata:
        """Give the metadata of an open window."""
        if self.odd is not None and window_id in self.odd:
            return self.odd[window_id]
        return WindowMetadata(*spans[window_id])

    def close_of(self, window_id: int, spans: WindowTimes) -> datetime:
        """Tell when an open window closes."""
        if self.odd is not None and window_id in self.odd:
            return self.odd[window_id].close_time
        return spans[window_id][1]

    def look_ahead(self, spans: WindowTimes, *, ordered: bool) -> None:
        """Find anew when the next thing happens."""
        closes = NEVER
        for window_id in self.states:
            closes = min(closes, self.close_of(window_id, spans))
        self.closes = self.next = closes
        if ordered:
            for _value, timestamp in self.queue:
                self.next = min(self.next, timestamp)
        if self.blind:
            self.next = UTC_MIN


def snapshot_of_windows(held: KeyWindows, spans: WindowTimes) -> Any:
    """Make the snapshot that Bytewax's own logic would make, or what is read as that.

    :arg held: Stays as it is.
    :arg spans: Of the step's windows.
    :returns: It shares what can't change, or is encoded before it can.
    """
    since, base, fields = held.since, held.base, None
    if held.odd is None and spans.in_utc and since.tzinfo is _UTC is base.tzinfo:
        fields = waiting(held.queue, [spans.since[since], microseconds(base)])
    if fields is not None:
        for window_id, state in held.states.items():
            kept = state if type(state) in LEAVES or is_flat(state) else deepcopy(state)
            fields += (window_id, *spans.numbers[window_id], kept)
        return CompactState(FIXED, fields)
    return _WindowSnapshot(
        _EventClockState(held.since, held.base),
        _SlidingWindowerState(
            {window_id: held.meta(window_id, spans) for window_id in held.states}
        ),
        {
            window_id: state if is_flat(state) else deepcopy(state)
            for window_id, state in held.states.items()
        },
        held.queue,
    )


def windows_of_snapshot(snapshot: Any, rules: WindowRules, spans: WindowTimes) -> KeyWindows:
    """Take in what a key's windows were at the last committed epoch.

    :arg snapshot: Bytewax's, of the same step.
    :arg rules: Of the step.
    :arg spans: Of the step's windows.
    :returns: The key's windows.
    """
    held = KeyWindows(rules.now())
    held.resume(snapshot)
    states = snapshot.logic_states
    for window_id, meta in snapshot.windower_state.opened.items():
        state = states[window_id]
        if state is None and rules.kind != REDUCE:
            state = rules.build()
        held.states[window_id] = state
        if not (is_steady(meta.close_time) and is_steady(spans[window_id][1])):
            held.be_blind()
        if not _is_plain(meta, spans[window_id]):
            held.odd = {**(held.odd or {}), window_id: meta}
    held.look_ahead(spans, ordered=rules.ordered)
    return held


def _is_plain(meta: WindowMetadata, span: Span) -> bool:
    """Tell whether a window's times are those that its ID stands for."""
    times = meta.open_time, meta.close_time
    zones = [time.tzinfo for time in (*times, *span)]
    return times == span and not meta.merged_ids and zones[:2] == zones[2:]
