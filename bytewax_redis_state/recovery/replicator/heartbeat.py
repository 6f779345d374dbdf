"""The pulse of a replicator: its heartbeat and how far it lags behind, shown while it works.

A call to a Redis that hangs may take half a minute, in which the flow goes on writing; so a thread
of its own measures the outbox. Invariant: the board is written under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bytewax_redis_state.recovery.outbox.outbox import Outbox
from bytewax_redis_state.recovery.replicator.status import Status, StatusBoard

__all__ = ["Heartbeat"]

_BEAT_SECONDS = 0.1
_SHARE = 10  # measuring takes at most a tenth of the time


class Heartbeat:
    """Show a replicator's status, and measure its outbox in a thread.

    :arg board: Where to show it.
    :arg outbox: The replicator's, opened once more for the thread.
    :arg status: What is shown first.
    :arg confirmed: Tells the last row that the outbox may let go of.
    """

    def __init__(
        self, board: Path, outbox: Outbox, status: Status, confirmed: Callable[[], int]
    ) -> None:
        self._board = StatusBoard(board)
        self._outbox = outbox
        self._confirmed = confirmed
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self.status = status

    def show(self, **changes: Any) -> None:
        """Change fields of the status, and show it."""
        with self._lock:
            self.status = replace(self.status, **changes)
            self._board.write(self.status)

    def measure(self) -> None:
        """Measure the outbox, and show what it holds that Redis does not have for sure."""
        backlog, lag = self._outbox.backlog(self._confirmed())
        self.show(backlog=backlog, lag=lag, spare=self._outbox.spare)

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def _run(self) -> None:
        wait = _BEAT_SECONDS
        while not self._stop.wait(wait):
            started = time.monotonic()
            self.measure()
            wait = max(_BEAT_SECONDS, _SHARE * (time.monotonic() - started))

    def stop(self) -> None:
        """End the thread, and close its outbox."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._outbox.close()
