"""The heartbeat of a replicator: a thread that measures the outbox and shows the status.

A call to a Redis that hangs may take half a minute, and the flow goes on writing meanwhile; so the
outbox is measured in a thread of its own. Invariant: the status board is written under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bytewax_redis_state.recovery.outbox.outbox import Outbox, put_off_if_busy
from bytewax_redis_state.recovery.replicator.status import Status, StatusBoard
from bytewax_redis_state.recovery.watched_thread import WatchedThread

__all__ = ["Heartbeat"]

_BEAT_SECONDS = 0.1
_SHARE = 10  # a large backlog takes long to measure: at most a tenth of the time goes into it


class Heartbeat:
    """Show a replicator's status, and measure its outbox in a thread.

    :arg board: Where the status is shown.
    :arg outbox: The replicator's, opened once more for the thread.
    :arg status: The status to begin with.
    """

    def __init__(self, board: StatusBoard, outbox: Outbox, status: Status) -> None:
        self._board = board
        self._outbox = outbox
        self._confirmed: Callable[[], int] = lambda: status.row
        self._lock = threading.Lock()
        self.thread = WatchedThread("heartbeat", self._run)
        self.status = status

    def show(self, **changes: Any) -> None:
        """Change fields of the status, and show it."""
        with self._lock:
            self.status = replace(self.status, **changes)
            self._board.write(self.status)

    def follow(self, confirmed: Callable[[], int]) -> None:
        """Measure from another row on than the first status shows.

        :arg confirmed: Gives the ID of the last row that Redis has confirmed.
        """
        self._confirmed = confirmed

    def measure(self) -> None:
        """Measure the rows of the outbox that Redis has not confirmed, and show their size."""
        backlog, lag = self._outbox.backlog(self._confirmed())
        self.show(backlog=backlog, lag=lag, spare=self._outbox.spare)

    def start(self) -> None:
        """Show the first status, and begin to measure.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self.show()
        self.thread.start()

    def _run(self) -> None:
        wait = _BEAT_SECONDS
        while not self.thread.wait(wait):
            started = time.monotonic()
            with put_off_if_busy():
                self.measure()
            wait = max(_BEAT_SECONDS, _SHARE * (time.monotonic() - started))

    def stop(self) -> None:
        """End the thread, and close its outbox."""
        self.thread.stop()
        self._outbox.close()
