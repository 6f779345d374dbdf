"""The gate: holds all sources of a flow back while its state can't be shipped to Redis.

A held partition gives no items, and tells the engine its next time itself: to ask the user's
partition would make the engine spin. So a pause costs no CPU, and epochs go on closing. The engine
looks ``next_batch`` and ``next_awake`` up on each call, so a partition is held by swapping these
methods, and one that is not held costs nothing.

Invariant: while the gate is closed no new item enters the flow, except those of a batch that was
being made when it closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from threading import Lock
from typing import Any
from weakref import WeakSet

from bytewax.inputs import DynamicSource, StatelessSourcePartition

__all__ = ["Gate", "GatedPartition", "GatedSource", "Holdable"]

_SOONEST, _LATEST = timedelta(milliseconds=50), timedelta(seconds=1)


class Holdable:
    """A partition whose methods can be swapped, so that it is held and released.

    :arg part: The user's partition.
    """

    def __init__(self, part: Any) -> None:
        self._part = part
        self._wait = _SOONEST
        self.next_batch: Any = part.next_batch
        self.next_awake: Any = part.next_awake

    def hold(self) -> None:
        """Give no items from now on."""
        self._wait = _SOONEST
        self.next_awake = self._soon
        self.next_batch = self._nothing

    def release(self) -> None:
        """Have the engine call the user's partition again."""
        self.next_batch = self._part.next_batch
        self.next_awake = self._part.next_awake

    def _nothing(self) -> Iterable[Any]:
        return ()

    def _soon(self) -> datetime:
        # An epoch can't close before the next_awake of every partition: so the wait stays short.
        at = datetime.now(timezone.utc) + self._wait
        self._wait = min(2 * self._wait, _LATEST)
        return at


class Gate:
    """Hold a flow's sources back, and release them; from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._parts: WeakSet[Holdable] = WeakSet()
        self.is_closed = False

    def add(self, part: Holdable) -> None:
        """Add a partition, and hold it at once where the gate is closed."""
        with self._lock:
            self._parts.add(part)
            if self.is_closed:
                part.hold()

    def close(self) -> None:
        """Hold all partitions."""
        with self._lock:
            self.is_closed = True
            for part in self._parts:
                part.hold()

    def open(self) -> None:
        """Release all partitions."""
        with self._lock:
            self.is_closed = False
            for part in self._parts:
                part.release()


class GatedPartition(Holdable, StatelessSourcePartition[Any]):
    """Pass everything to the user's partition, unless the gate holds it."""

    def __init__(self, part: StatelessSourcePartition[Any]) -> None:
        super().__init__(part)
        self.close = part.close  # type: ignore[method-assign]

    def next_batch(self) -> Iterable[Any]:
        """Stand in for the user's method, which hides this one."""
        return self._part.next_batch()  # type: ignore[no-any-return]


class GatedSource(DynamicSource[Any]):
    """Wrap a source without state, so that the gate can hold it; it has nothing to resume.

    :arg source: The user's.
    :arg gate: Of the flow.
    """

    def __init__(self, source: DynamicSource[Any], gate: Gate) -> None:
        self._source = source
        self._gate = gate

    def build(self, step_id: str, worker_index: int, worker_count: int) -> GatedPartition:
        """Build the user's partition.

        :arg step_id: Passed on.
        :arg worker_index: Passed on.
        :arg worker_count: Passed on.
        :returns: The partition, wrapped.
        :raises TypeError: If the user's source built something else.
        """
        part = self._source.build(step_id, worker_index, worker_count)
        if not isinstance(part, StatelessSourcePartition):
            raise TypeError(
                "stateless source partition must subclass `bytewax.inputs.StatelessSourcePartition`"
            )
        gated = GatedPartition(part)
        self._gate.add(gated)
        return gated
