"""Backpressure: a flow whose rows Redis does not take waits, and stops before its disk is full.

Invariant: the sources are held while the outbox holds more than the flow may lag behind, while
nobody ships, and while the scratch disk nears its end; and the flow ends with our error before the
engine would meet a full disk, as far as one epoch's rows fit into what is kept free.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bytewax_redis_state.config.sizes import shown_size
from bytewax_redis_state.dataflow.connectors.gate import Gate
from bytewax_redis_state.errors import ScratchError
from bytewax_redis_state.recovery.outbox.scratch import LEAST_FREE
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status

__all__ = ["Backpressure", "default_lag"]

_MOST_LAG = 2**30
_LAST_FREE = LEAST_FREE // 4
_LOG_FREE = LEAST_FREE // 16  # what SQLite's log needs beside room within the file
_SILENCE_SECONDS = 3.0  # a replicator that was killed works again sooner


def default_lag(folder: Path) -> int:
    """Say how far a flow may lag behind where nobody has: half of what is free, at most 1 GiB.

    :arg folder: On the scratch disk.
    :returns: Bytes.
    """
    return min(_MOST_LAG, shutil.disk_usage(folder).free // 2)


class Backpressure:
    """Close and open a flow's gate as the replicator's status says.

    :arg gate: Of the flow.
    :arg folder: On the scratch disk.
    :arg max_lag: Bytes that the outbox may hold which Redis does not have.
    :arg say: Gets one line when the sources are held, and one when they go on.
    """

    def __init__(self, gate: Gate, folder: Path, max_lag: int, say: Callable[[str], None]) -> None:
        self._gate = gate
        self._folder = folder
        self._max_lag = max_lag
        self._say = say

    def heed(self, status: Status) -> ScratchError | None:
        """Hold the sources or let them go on.

        :arg status: What the replicator shows.
        :returns: Why the flow has to stop at once, or ``None``.
        """
        error = self.full_disk(status)
        if error is not None:
            return error
        room = self._free + status.spare
        reason = self._reason(status, room)
        if reason is not None and not self._gate.is_closed:
            self._gate.close()
            self._say(f"the sources wait: {reason}")
        elif reason is None and self._gate.is_closed and self._may_open(status, room):
            self._gate.open()
            self._say(f"the sources go on: the outbox lags {shown_size(status.lag)} behind")
        return None

    @property
    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free

    def full_disk(self, status: Status) -> ScratchError | None:
        """Give the error for a disk that is full, or nearly so.

        :arg status: What the replicator shows.
        :returns: The error; ``None`` where there is room.
        """
        free = self._free
        if free + status.spare >= _LAST_FREE and free >= _LOG_FREE:
            return None
        return ScratchError(
            f"the scratch folder {self._folder.parent} has only {shown_size(free)} free; "
            f"Redis lacks {shown_size(status.lag)} of the outbox",
            "give --scratch a folder with room; the flow resumes from what Redis has",
        )

    def _reason(self, status: Status, room: int) -> str | None:
        why = f" ({status.text})" if status.state is ReplicatorState.AWAY and status.text else ""
        if status.lag > self._max_lag:
            lag, most = shown_size(status.lag), shown_size(self._max_lag)
            return f"the outbox lags {lag} behind, {most} is the most{why}"
        if room < LEAST_FREE:
            return f"the scratch disk has only {shown_size(room)} left{why}"
        if status.age > _SILENCE_SECONDS:
            return f"the replicator has been silent for {status.age:.0f} s"
        return None

    def _may_open(self, status: Status, room: int) -> bool:
        """Not at the very limit, else the gate would swing."""
        return status.lag <= self._max_lag // 2 and room >= LEAST_FREE + LEAST_FREE // 2
