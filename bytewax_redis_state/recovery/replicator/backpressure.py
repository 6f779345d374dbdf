"""Backpressure: a flow whose rows Redis does not take waits, and stops before its disk is full.

Invariant: the sources are held while the outbox holds more than the flow may lag behind, while
nobody ships, and while the scratch disk nears its end; and the flow ends with our error before the
engine would meet a full disk, as far as one epoch's rows fit into the reserve. It also ends as soon
as its outbox is gone: nothing that it does from then on could be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bytewax_redis_state.config.sizes import shown_size
from bytewax_redis_state.dataflow.connectors.gate import Gate
from bytewax_redis_state.errors import ScratchError
from bytewax_redis_state.recovery.outbox.scratch import LEAST_FREE, free_bytes
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status

__all__ = ["Backpressure", "default_lag"]

_MOST_LAG = 2**30
_LAST_FREE = LEAST_FREE // 4
_LOG_FREE = LEAST_FREE // 16  # SQLite's log needs room outside of the file, too
_SILENCE_SECONDS = 3.0  # a replicator that was killed works again sooner


def default_lag(folder: Path) -> int:
    """Give the lag that a flow is allowed by default: half of what is free, at most 1 GiB.

    :arg folder: On the scratch disk.
    :returns: Bytes.
    :raises ScratchError: If the folder is gone.
    """
    return min(_MOST_LAG, free_bytes(folder) // 2)


class Backpressure:
    """Close and open a flow's gate as the replicator's status says.

    :arg gate: Of the flow.
    :arg outbox: Path of the outbox file.
    :arg max_lag: Bytes of rows that the outbox may hold and Redis lacks.
    :arg say: Gets one line when the sources are held, and one when they go on.
    """

    def __init__(self, gate: Gate, outbox: Path, max_lag: int, say: Callable[[str], None]) -> None:
        self._gate = gate
        self._outbox = outbox
        self._max_lag = max_lag
        self._say = say

    def on_status(self, status: Status) -> ScratchError | None:
        """Hold the sources or let them go on.

        :arg status: Of the replicator.
        :returns: Why the flow has to stop at once, or ``None``.
        """
        error = self.scratch_error(status)
        if error is not None:
            return error
        # Pages that deleted rows have left count as room: SQLite's file does not shrink, and a flow
        # that waited for the disk's room would wait for ever.
        room = free_bytes(self._outbox) + status.spare
        reason = self._reason(status, room)
        if reason is not None and not self._gate.is_closed:
            self._gate.close()
            self._say(f"the sources wait: {reason}")
        elif reason is None and self._gate.is_closed and self._may_open(status, room):
            self._gate.open()
            self._say(f"the sources go on: the outbox lags {shown_size(status.lag)} behind")
        return None

    def scratch_error(self, status: Status) -> ScratchError | None:
        """Give the error for an outbox that is gone, and for a disk that is full or nearly so.

        :arg status: Of the replicator.
        :returns: The error; ``None`` where the outbox is there and has room.
        """
        try:
            free = free_bytes(self._outbox)
        except ScratchError as gone:
            return gone
        if free + status.spare >= _LAST_FREE and free >= _LOG_FREE:
            return None
        return ScratchError(
            f"the scratch folder {self._outbox.parent.parent} has only {shown_size(free)} free; "
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
        """Open well below the limit only, else the gate would open and close all the time."""
        return status.lag <= self._max_lag // 2 and room >= LEAST_FREE + LEAST_FREE // 2
