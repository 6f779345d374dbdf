"""The times of windows of fixed length, made once: keys have the same ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TypeVar

from bytewax_redis_state.codec.compact_state import microseconds
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import (
    FixedWindowConfig,
    Interval,
)

__all__ = ["Cache", "WindowTimes"]

_KEPT = 10_000
_K = TypeVar("_K")
_V = TypeVar("_V")


class Cache(dict[_K, _V]):
    """What was made lately.

    :arg make: Makes what is missing.
    """

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make

    def __missing__(self, key: _K) -> _V:
        if len(self) >= _KEPT:
            self.clear()
        made = self[key] = self._make(key)
        return made


class WindowTimes(Cache[int, Interval]):
    """The spans of the windows met lately, by ID.

    :arg rules: Of the step.
    """

    def __init__(self, config: FixedWindowConfig) -> None:
        super().__init__(config.interval)
        self.in_utc = config.align_to.tzinfo is timezone.utc
        """Whether they are in UTC, and have numbers."""
        self.numbers: Cache[int, tuple[int, int]] = Cache(self._numbers)
        """Start and length by ID, in microseconds."""
        self.since: Cache[datetime, int] = Cache(microseconds)
        """Times of the system's clock, which the keys of a batch share, in microseconds."""

    def _numbers(self, window_id: int) -> tuple[int, int]:
        opens, closes = map(microseconds, self[window_id])
        return opens, closes - opens
