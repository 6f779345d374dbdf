"""Raises the number of the event up to which a flow may read, for as long as faults strike it.

So no flow ends before its last fault, and each has input left when a fault strikes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from bytewax_redis_state.chaos.flow import save_limit
from bytewax_redis_state.errors import StateError

__all__ = ["InputLimiter"]

_STEP_SECONDS = 0.05
_MOST_AHEAD = 2000  # events; else a flow that was down for long would take long to catch up


class InputLimiter:
    """Raises a limit in a thread.

    :arg path: Of the file in which the flow looks up the limit.
    :arg rate: Events of each source a second.
    :arg position: Gives the number of the event up to which the flow has read.
    """

    def __init__(self, path: Path, rate: int, position: Callable[[], int]) -> None:
        self.path = path
        self.limit = rate
        self._rate = rate
        self._position = position
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="input-limiter", daemon=True)
        save_limit(path, self.limit, final=False)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_STEP_SECONDS):
            # Redis may be down just now, or the state damaged.
            with suppress(redis.RedisError, OSError, StateError):
                self._seen = max(self._seen, self._position())
            if self.limit > self._seen + _MOST_AHEAD:
                continue
            self.limit += int(self._rate * _STEP_SECONDS)
            save_limit(self.path, self.limit, final=False)

    def stop(self) -> int:
        """Stop the thread, and tell the flow that the limit is final.

        :returns: The limit: the flow reads all events below it.
        """
        self._stop.set()
        self._thread.join()
        save_limit(self.path, self.limit, final=True)
        return self.limit
