"""What a fast window step does: its clock, its windows and its fold, read from the step tree.

Invariant: every expression on times is Bytewax's own, so that zones, overflows and mistakes of the
user come out as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import bytewax.operators.windowing as win
from bytewax.dataflow import Operator
from bytewax.operators import _get_system_utc, _identity

__all__ = [
    "COUNT",
    "FOLD",
    "REDUCE",
    "FixedWindowConfig",
    "Interval",
    "SessionWindowConfig",
    "WindowConfig",
    "window_config_of",
]

COUNT, FOLD, REDUCE = range(3)
"""How a window's state takes a value: one more, by the folder, by the reducer."""

Interval = tuple[datetime, datetime]
"""When a window opens, and when it closes."""

_ZERO = timedelta(0)
_WINDOWERS = (win.TumblingWindower, win.SlidingWindower)
_op_of: Callable[[Any], Any] = lambda function: function._op_cls  # noqa: E731
_window, _fold_window = _op_of(win.window), _op_of(win.fold_window)
_count_window, _reduce_window = _op_of(win.count_window), _op_of(win.reduce_window)


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The configuration of one window step, whatever its windows are.

    :arg timestamp_of: Of a value.
    :arg wait: For how long the watermark stays behind.
    :arg now: The system's time, as the step's clock has it.
    :arg to_system: From a close time to when to wake up for it.
    :arg ordered: Whether values wait for the watermark, to be taken in the order of their times.
    :arg kind: How a state takes a value.
    :arg build: Makes the state of a new window; unused in :data:`REDUCE`.
    :arg fold: Folder or reducer; unused in :data:`COUNT`.
    :arg merge: Makes one state of two windows'.
    """

    timestamp_of: Callable[[Any], datetime]
    wait: timedelta
    now: Callable[[], datetime]
    to_system: Callable[[datetime], datetime | None]
    ordered: bool
    kind: int
    build: Callable[[], Any]
    fold: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class SessionWindowConfig(WindowConfig):
    """The configuration of a step of session windows.

    :arg windower: Bytewax's.
    """

    windower: win.SessionWindower


@dataclass(frozen=True, kw_only=True)
class FixedWindowConfig(WindowConfig):
    """The configuration of a step of windows of fixed length.

    :arg length: Of a window.
    :arg offset: From one window's start to the next one's.
    :arg align_to: Where window 0 starts.
    """

    length: timedelta
    offset: timedelta
    align_to: datetime

    @property
    def overlaps(self) -> bool:
        """Whether a value may be in several windows."""
        return self.offset != self.length

    def windows_at(self, timestamp: datetime) -> Sequence[int]:
        """Give the IDs of the windows that a time is in."""
        since = timestamp - self.align_to
        return range((since - self.length) // self.offset + 1, since // self.offset + 1)

    def interval(self, window_id: int) -> Interval:
        """Give a window's times."""
        opens = self.align_to + self.offset * window_id
        return opens, opens + self.length


def window_config_of(path: Sequence[Operator]) -> WindowConfig | None:
    """Recognise the windows of an event clock that fold values: of a fixed length, or sessions.

    :arg path: The operators around a core step, outermost first, and the step itself.
    :returns: ``None`` where it is something else, or of the user's own classes.
    """
    kinds = [type(step) for step in path[:-1]]
    if kinds[-2:] != [_fold_window, _window]:
        return None
    step: Any = path[-3]
    clock, windower = step.clock, step.windower
    if type(clock) is not win.EventClock:
        return None
    if clock.now_getter is _get_system_utc and clock.to_system_utc is not _identity:
        return None  # when Bytewax would wake up can't be told without being asked each time
    kind, fold = FOLD, step.folder
    if kinds[-3:-2] == [_count_window]:
        kind = COUNT
    elif kinds[-3:-2] == [_reduce_window]:
        outer: Any = path[-4]
        kind, fold = REDUCE, outer.reducer
    common = {
        "timestamp_of": clock.ts_getter,
        "wait": clock.wait_for_system_duration,
        "now": clock.now_getter,
        "to_system": clock.to_system_utc,
        "ordered": step.ordered,
        "kind": kind,
        "build": step.builder,
        "fold": fold,
        "merge": step.merger,
    }
    if type(windower) is win.SessionWindower:
        return (
            SessionWindowConfig(windower=windower, **common)
            if _is_timedelta(windower.gap)
            else None
        )
    return _fixed(windower, common) if type(windower) in _WINDOWERS else None


def _fixed(windower: Any, common: dict[str, Any]) -> FixedWindowConfig | None:
    length = windower.length
    offset = windower.offset if type(windower) is win.SlidingWindower else length
    if not (_is_timedelta(length) and _is_timedelta(offset) and _ZERO < offset <= length):
        return None
    return FixedWindowConfig(length=length, offset=offset, align_to=windower.align_to, **common)


def _is_timedelta(interval: object) -> bool:
    return type(interval) is timedelta
