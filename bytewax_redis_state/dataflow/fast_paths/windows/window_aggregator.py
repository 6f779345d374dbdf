"""The aggregation of one key's values into windows, without Bytewax's clock and window objects.

Invariant: the user's functions are called in Bytewax's order, and events are put out in Bytewax's
order: first late values, then the windows that the watermark has reached, in the order in which
they opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any, ClassVar, Generic, TypeVar

from bytewax_redis_state.dataflow.fast_paths.windows.key_windows import NEVER, KeyWindows, Queue
from bytewax_redis_state.dataflow.fast_paths.windows.window_config import WindowConfig
from bytewax_redis_state.dataflow.shards.shard import Items

__all__ = ["WindowAggregator"]

_timestamp: Any = itemgetter(1)
_UTC = timezone.utc
_H = TypeVar("_H", bound=KeyWindows)


class WindowAggregator(ABC, Generic[_H]):
    """Aggregate the values of one step's keys into windows, one key at a time.

    :arg config: Of the step.
    """

    discards: ClassVar[bool]
    """Whether a key without open windows and waiting values is dropped: it equals a new one."""

    def __init__(self, config: WindowConfig) -> None:
        self.config = config

    @abstractmethod
    def begin(self, now: datetime) -> _H:
        """Make the object for a new key, which has no windows."""

    @abstractmethod
    def resume(self, snapshot: Any) -> _H:
        """Restore a key's windows as of the last committed epoch.

        :arg snapshot: Bytewax's, of the same step.
        :returns: The key's windows.
        """

    @abstractmethod
    def snapshot(self, held: _H) -> Any:
        """Make Bytewax's snapshot, or a compact state that is read as it.

        :arg held: Not changed.
        :returns: The snapshot, to be encoded at once: it shares objects with the windows.
        """

    @abstractmethod
    def late_for(self, timestamp: datetime) -> Iterable[int]:
        """Give the IDs of the windows for which a value came too late."""

    @abstractmethod
    def look_ahead(self, held: _H) -> None:
        """Compute again when the next window closes or the next waiting value is due."""

    @abstractmethod
    def _fold(self, held: _H, entries: Iterable[tuple[Any, datetime]]) -> None:
        """Put values into their windows."""

    @abstractmethod
    def _close(self, key: str, held: _H, watermark: datetime, items: Items) -> bool:
        """Close the windows that the watermark has reached.

        :returns: Whether there were any.
        """

    def add(self, key: str, held: _H, values: list[Any], now: datetime) -> Items:
        """Put values into their windows, and close windows that the watermark has reached.

        :arg key: The state key, for the output.
        :arg held: The key's windows.
        :arg values: In the order of arrival.
        :arg now: The system's time.
        :returns: The output.
        """
        if now > held.now:
            held.now = now
        else:
            now = held.now
        config = self.config
        timestamp_of, wait = config.timestamp_of, config.wait
        watermark = held.base + (now - held.since)
        items: Items = []
        due: Queue = []
        for value in values:
            timestamp = timestamp_of(value)
            try:
                # First of all, so that Bytewax's words refuse what is no time.
                base = timestamp - wait
                if base > watermark:
                    assert base >= held.base
                    assert now >= held.since
                    held.base = watermark = base
                    held.since = now
            except OverflowError:
                pass  # as in Bytewax: the watermark goes on with the system's time
            zone = timestamp.tzinfo
            if zone is not _UTC and not isinstance(zone, timezone):
                held.mark_unpredictable()
            if timestamp < watermark:
                for window_id in self.late_for(timestamp):
                    items.append((key, (window_id, "L", value)))
            else:
                due.append((value, timestamp))
        if config.ordered:
            self._enqueue(held, due)
        elif held.queue:
            held.queue += due
        else:
            self._fold(held, due)
        if held.next <= watermark or (held.queue and not config.ordered):
            self.advance(key, held, watermark, items)
        return items

    def notify(self, key: str, held: _H) -> tuple[Items, bool]:
        """Close windows that the watermark has reached since the last value.

        :returns: The output, and whether the key's state has changed.
        """
        now = self.config.now()
        if now > held.now:
            held.now = now
        watermark = held.base + (held.now - held.since)
        items: Items = []
        return items, self.advance(key, held, watermark, items)

    def end(self, key: str, held: _H) -> tuple[Items, bool]:
        """Close all windows.

        :returns: The output, and whether the key's state has changed.
        """
        items: Items = []
        return items, self.advance(key, held, NEVER, items)

    def advance(self, key: str, held: _H, watermark: datetime, items: Items) -> bool:
        """Put waiting values that are due into their windows, then close windows.

        :returns: Whether the key's state has changed.
        """
        due = self._due(held, watermark) if held.queue else []
        self._fold(held, due)
        may_close = held.closes <= watermark or held.unpredictable
        closed = may_close and self._close(key, held, watermark, items)
        if due or closed:
            self.look_ahead(held)
        return bool(due) or closed

    def _enqueue(self, held: _H, entries: Queue) -> None:
        held.queue += entries
        for _value, timestamp in entries:
            if timestamp < held.next:
                held.next = timestamp

    def _due(self, held: _H, watermark: datetime) -> Queue:
        queue = held.queue
        if not self.config.ordered:
            held.queue = []
            return queue
        due: Queue = []
        waiting: Queue = []
        for entry in queue:
            (due if entry[1] <= watermark else waiting).append(entry)
        held.queue = waiting
        due.sort(key=_timestamp)
        return due
