"""The configuration of a window step: its clock, its windows and its functions, from the step tree.

Invariant: every expression on times is Bytewax's own, so that time zones, overflows and mistakes of
the user have the results that they have in Bytewax.
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
"""How a value goes into a window's state: it is counted, folded in, or reduced."""

Interval = tuple[datetime, datetime]
"""When a window opens, and when it closes."""

_ZERO = timedelta(0)
_WINDOWERS = (win.TumblingWindower, win.SlidingWindower)
_op_of: Callable[[Any], Any] = lambda function: function._op_cls  # noqa: E731
_window, _fold_window = _op_of(win.window), _op_of(win.fold_window)
_count_window, _reduce_window = _op_of(win.count_window), _op_of(win.reduce_window)


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The configuration of one window step, for windows of any kind.

    :arg timestamp_of: Gives the event time of a value.
    :arg wait: How far the watermark stays behind the largest event time.
    :arg now: Gives the system's time, as the step's clock has it.
    :arg to_system: Turns a close time into the system's time of the notification for it.
    :arg ordered: Whether values wait for the watermark, and go into windows in the order of their
        event times.
    :arg kind: :data:`COUNT`, :data:`FOLD` or :data:`REDUCE`.
    :arg build: Makes the state of a new window; unused in :data:`REDUCE`.
    :arg fold: The user's function (Bytewax's ``folder`` or ``reducer``); unused in :data:`COUNT`.
    :arg merge: Makes one state of the states of two windows.
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

    :arg windower: Bytewax's, which keeps the sessions of each key.
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
        """Give the IDs of the windows that contain a time."""
        since = timestamp - self.align_to
        return range((since - self.length) // self.offset + 1, since // self.offset + 1)

    def interval(self, window_id: int) -> Interval:
        """Give the times at which a window opens and closes."""
        opens = self.align_to + self.offset * window_id
        return opens, opens + self.length


def window_config_of(path: Sequence[Operator]) -> WindowConfig | None:
    """Read the configuration of a step of fixed or session windows over the event clock.

    :arg path: The operators around a core step, outermost first, and the step itself.
    :returns: ``None`` for any other step, and where clock or windower are of a class of the user's.
    """
    kinds = [type(step) for step in path[:-1]]
    if kinds[-2:] != [_fold_window, _window]:
        return None
    step: Any = path[-3]
    clock, windower = step.clock, step.windower
    if type(clock) is not win.EventClock:
        return None
    if clock.now_getter is _get_system_utc and clock.to_system_utc is not _identity:
        # The wake-up time depends on a function of the user's, and can't be foretold.
        return None
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


def _is_timedelta(value: object) -> bool:
    return type(value) is timedelta
