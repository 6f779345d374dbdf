"""A cache of the times of fixed windows: all keys of a step have the same windows."""

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

_CACHE_SIZE = 10_000
_K = TypeVar("_K")
_V = TypeVar("_V")


class Cache(dict[_K, _V]):
    """A cache that makes missing values, and is emptied when it is full.

    :arg make: Makes the value for a missing key.
    """

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make

    def __missing__(self, key: _K) -> _V:
        # Event times move on, so old entries are of no use: no order of use is kept, which would
        # cost a write for each value.
        if len(self) >= _CACHE_SIZE:
            self.clear()
        made = self[key] = self._make(key)
        return made


class WindowTimes(Cache[int, Interval]):
    """Open and close time of windows, by window ID.

    :arg config: Of the step.
    """

    def __init__(self, config: FixedWindowConfig) -> None:
        super().__init__(config.interval)
        self.in_utc = config.align_to.tzinfo is timezone.utc
        """Whether the times are in UTC; only then they have ``numbers``."""
        self.numbers: Cache[int, tuple[int, int]] = Cache(self._numbers)
        """Start and length of windows by ID, in microseconds."""
        self.clock_numbers: Cache[datetime, int] = Cache(microseconds)
        """Times of the system's clock in microseconds; the keys of a batch share one."""

    def _numbers(self, window_id: int) -> tuple[int, int]:
        opens, closes = map(microseconds, self[window_id])
        return opens, closes - opens
