"""The values of a memory backend, counted as they are encoded and decoded.

They go through the codec although they stay in this process, so that a test finds a value that
Redis could not store.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bytewax_redis_state.backend.operations import milliseconds
from bytewax_redis_state.backend.statistics import Meter
from bytewax_redis_state.backend.values import Key, Values

__all__ = ["CountedValues"]


class CountedValues:
    """Encode and decode, and tell the meter.

    :arg values: The values of the backend.
    :arg meter: Counts hits, misses and bytes.
    """

    def __init__(self, values: Values, meter: Meter) -> None:
        self._values = values
        self._meter = meter

    def dump(self, key: Key, value: Any, ttl: timedelta | None) -> bytes:
        """Check the TTL, and encode a value that is about to be stored."""
        if ttl is not None:
            milliseconds(ttl)
        data = self._values.dump(key, value)
        self._meter.wrote(len(data))
        return data

    def load(self, key: Key, data: bytes | None, default: Any) -> Any:
        """Decode a value that was read; gives the default where there is none."""
        if data is None:
            self._meter.read(0, 1, 0)
            return default
        self._meter.read(1, 0, len(data))
        return self._values.load(key, data)
