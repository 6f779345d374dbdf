"""The flow's time: the clock of the Redis server, less all downtime, in milliseconds.

Deadlines count the flow's time, so that downtime expires nothing. Each start computes the flow's
time from the server's clock and the downtime in the manifest; from then on it is counted in this
process.

Invariant: within a run the flow's time never goes back and never jumps.
"""

from __future__ import annotations

import time

__all__ = ["FlowClock", "wall_clock"]

# A machine that sleeps must go on counting where the system can: the server's clock does so, too.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_clock() -> int:
    """Tell the time of a flow without downtime: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class FlowClock:
    """Count the flow's time from a start on, by a clock that can't jump as the wall clock may.

    :arg start: The flow's time now, in milliseconds.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._since = time.clock_gettime_ns(_CLOCK)

    def __call__(self) -> int:
        """Tell the flow's time in milliseconds."""
        return self._start + (time.clock_gettime_ns(_CLOCK) - self._since) // 1_000_000
