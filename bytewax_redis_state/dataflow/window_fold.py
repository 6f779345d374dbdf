"""What Bytewax's clock, windower and fold do with the values of one key, without their objects.

Invariant: the user's functions are called in Bytewax's order, and events come in it: late values
first, then, as the watermark gets to them, windows in the order in which they opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from bytewax_redis_state.dataflow.key_windows import NEVER, KeyWindows, Queue
from bytewax_redis_state.dataflow.shard import Items
from bytewax_redis_state.dataflow.spans import Spans
from bytewax_redis_state.dataflow.window_rules import COUNT, REDUCE, WindowRules

__all__ = ["WindowFold"]

_NEW = object()
_UTC = timezone.utc
_timestamp: Any = itemgetter(1)


class WindowFold:
    """Run the windows of one step's keys, one key at a time.

    :arg rules: Of the step.
    """

    def __init__(self, rules: WindowRules) -> None:
        self.rules = rules
        self.spans = Spans(rules)
        # The window that the last value was in: the next one's is most often the same.
        self._last: Sequence[int] = ()
        self._opens = self._closes = NEVER

    def take(self, key: str, held: KeyWindows, values: list[Any], now: datetime) -> Items:
        """Put values into their windows, and close what the watermark has reached.

        :arg key: Whose windows these are.
        :arg held: Its windows.
        :arg values: In the order in which they came.
        :arg now: The system's time.
        :returns: What to put out.
        """
        if now > held.now:
            held.now = now
        else:
            now = held.now
        rules = self.rules
        timestamp_of, wait = rules.timestamp_of, rules.wait
        watermark = held.base + (now - held.since)
        items: Items = []
        due: Queue = []
        for value in values:
            timestamp = timestamp_of(value)
            try:
                base = timestamp - wait
                if base > watermark:
                    assert base >= held.base
                    assert now >= held.since
                    held.base = watermark = base
                    held.since = now
            except OverflowError:
                pass  # as in Bytewax: the watermark goes on with the system's time
            if timestamp < watermark:
                for window_id in rules.windows_at(timestamp):
                    items.append((key, (window_id, "L", value)))
            else:
                due.append((value, timestamp))
        if rules.ordered:
            self._enqueue(held, due)
        elif held.queue:
            held.queue += due
        else:
            self._fold(held, due)
        if held.next <= watermark or (held.queue and not rules.ordered):
            self.advance(key, held, watermark, items)
        return items

    def notify(self, key: str, held: KeyWindows) -> tuple[Items, bool]:
        """Close what the watermark has reached meanwhile.

        :returns: What to put out, and whether anything has changed.
        """
        now = self.rules.now()
        if now > held.now:
            held.now = now
        watermark = held.base + (held.now - held.since)
        items: Items = []
        return items, self.advance(key, held, watermark, items)

    def end(self, key: str, held: KeyWindows) -> tuple[Items, bool]:
        """Close all windows.

        :returns: What to put out, and whether anything has changed.
        """
        items: Items = []
        return items, self.advance(key, held, NEVER, items)

    def advance(self, key: str, held: KeyWindows, watermark: datetime, items: Items) -> bool:
        """Take what has waited long enough into its windows, then close windows.

        :returns: Whether anything has changed.
        """
        due = self._due(held, watermark) if held.queue else []
        self._fold(held, due)
        closed = held.closes <= watermark and self._close(key, held, watermark, items)
        if due or closed:
            held.look_ahead(self.spans, ordered=self.rules.ordered)
        return bool(due) or closed

    def _enqueue(self, held: KeyWindows, entries: Queue) -> None:
        held.queue += entries
        for _value, timestamp in entries:
            if timestamp < held.next:
                held.next = timestamp

    def _due(self, held: KeyWindows, watermark: datetime) -> Queue:
        queue = held.queue
        if not self.rules.ordered:
            held.queue = []
            return queue
        due: Queue = []
        waiting: Queue = []
        for entry in queue:
            (due if entry[1] <= watermark else waiting).append(entry)
        held.queue = waiting
        due.sort(key=_timestamp)
        return due

    def _fold(self, held: KeyWindows, entries: Iterable[tuple[Any, datetime]]) -> None:
        rules, states = self.rules, held.states
        kind, fold = rules.kind, rules.fold
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
        rules = self.rules
        window_ids = rules.windows_at(timestamp)
        if not rules.overlaps and rules.align_to.tzinfo is _UTC is timestamp.tzinfo:
            self._last = window_ids
            self._opens, self._closes = self.spans[window_ids[0]]
        return window_ids

    def _open(self, held: KeyWindows, window_id: int) -> Any:
        closes = self.spans[window_id][1]
        held.closes = min(held.closes, closes)
        held.next = min(held.next, closes)
        return None if self.rules.kind == REDUCE else self.rules.build()

    def _close(self, key: str, held: KeyWindows, watermark: datetime, items: Items) -> bool:
        states, spans = held.states, self.spans
        closed = [each for each in states if held.close_of(each, spans) <= watermark]
        for window_id in closed:
            meta = held.meta(window_id, spans)
            items.append((key, (window_id, "E", states.pop(window_id))))
            items.append((key, (window_id, "M", meta)))
            if held.odd is not None:
                held.odd.pop(window_id, None)
        return bool(closed)
