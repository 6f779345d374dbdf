"""The status board: the replicator's state in shared memory, a small file that both processes map.

Invariant: one writer (the replicator); the text is written before the state that it explains.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = ["ReplicatorState", "Status", "StatusBoard"]

# state, heartbeat ns, row, progress, applied, backlog, lag, spare, shipped, snapshot_request
_FORM = struct.Struct("<qqqqqqqqqq")
_TEXT_BYTES = 2048
_SIZE = _FORM.size + _TEXT_BYTES


class ReplicatorState(IntEnum):
    """What the replicator does now, or how it ended."""

    STARTING = 0
    RUNNING = 1
    AWAY = 2
    DRAINING = 3
    DRAINED = 4
    FENCED = 5
    LOST = 6
    FAILED = 7
    UNDRAINED = 8
    EMPTIED = 9


@dataclass(frozen=True)
class Status:
    """What the status board shows.

    :arg state: What the replicator does now, or how it ended.
    :arg heartbeat: Its last sign of life, ``time.monotonic()`` in seconds.
    :arg row: Last outbox row that Redis has.
    :arg progress: Epoch below which everything is in the journal.
    :arg applied: Epoch up to which the keyed state is folded.
    :arg backlog: Outbox rows that Redis does not have yet.
    :arg lag: About how many bytes they take in the outbox.
    :arg spare: Bytes of the outbox file that new rows can use.
    :arg shipped: Outbox rows shipped in all.
    :arg snapshot_request: Number of the newest request for a snapshot of all shards; 0 before any.
    :arg text: The reason, where the state is an ending or Redis is away.
    """

    state: ReplicatorState = ReplicatorState.STARTING
    heartbeat: float = 0.0
    row: int = 0
    progress: int = 0
    applied: int = 0
    backlog: int = 0
    lag: int = 0
    spare: int = 0
    shipped: int = 0
    snapshot_request: int = 0
    text: str = ""

    @property
    def age(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self.heartbeat


class StatusBoard:
    """The mapped file.

    :arg path: Of the file, in the execution's private folder; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            if path.stat().st_size < _SIZE:
                file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def write(self, status: Status) -> None:
        """Show a status, with the heartbeat of now."""
        # The text first: who reads the state must find the text that explains it.
        text = status.text.encode()[: _TEXT_BYTES - 1]
        self._map[_FORM.size :] = text.ljust(_TEXT_BYTES, b"\0")
        self._map[: _FORM.size] = _FORM.pack(
            status.state,
            time.monotonic_ns(),
            status.row,
            status.progress,
            status.applied,
            status.backlog,
            status.lag,
            status.spare,
            status.shipped,
            status.snapshot_request,
        )

    def read(self) -> Status:
        """Read the status that was last shown."""
        state, beat, *rest = _FORM.unpack_from(self._map)
        row, progress, applied, backlog, lag, spare, shipped, request = rest
        text = self._map[_FORM.size :].split(b"\0", 1)[0].decode(errors="replace")
        return Status(
            ReplicatorState(state),
            beat / 1e9,
            row,
            progress,
            applied,
            backlog,
            lag,
            spare,
            shipped,
            request,
            text,
        )

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
