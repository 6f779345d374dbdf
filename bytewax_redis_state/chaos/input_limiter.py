"""The input_limiter: raises the limit up to which a flow may read, for as long as faults strike it.

So a flow never ends before its faults have struck, and always has something to read when they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from bytewax_redis_state.chaos.flow import save_limit

__all__ = ["InputLimiter"]

_STEP_SECONDS = 0.05
_MOST_AHEAD = 2000  # events: a flow that is down for long would take long to catch up


class InputLimiter:
    """Raise a limit in a thread.

    :arg path: Of the file that the flow reads.
    :arg rate: Events of each source a second.
    :arg position: Tells how far the flow has read.
    """

    def __init__(self, path: Path, rate: int, position: Callable[[], int]) -> None:
        self.path = path
        self.limit = rate
        self._rate = rate
        self._position = position
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="input_limiter", daemon=True)
        save_limit(path, self.limit, final=False)

    def start(self) -> None:
        """Begin to raise it."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_STEP_SECONDS):
            with suppress(redis.RedisError, OSError):  # struck, too
                self._seen = max(self._seen, self._position())
            if self.limit > self._seen + _MOST_AHEAD:
                continue
            self.limit += int(self._rate * _STEP_SECONDS)
            save_limit(self.path, self.limit, final=False)

    def stop(self) -> int:
        """Say that no more will come.

        :returns: Below which number all events are to be read.
        """
        self._stop.set()
        self._thread.join()
        save_limit(self.path, self.limit, final=True)
        return self.limit
