"""The tide: raises the limit up to which a flow may read, for as long as faults strike it.

So a flow never ends before its faults have struck, and always has something to read when they do.
"""

from __future__ import annotations

import threading
from pathlib import Path

from bytewax_redis_state.chaos.flow import save_limit

__all__ = ["Tide"]

_STEP_SECONDS = 0.05


class Tide:
    """Raise a limit in a thread.

    :arg path: Of the file that the flow reads.
    :arg rate: Events of each source a second.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self.limit = rate
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tide", daemon=True)
        save_limit(path, self.limit, final=False)

    def start(self) -> None:
        """Begin to raise it."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_STEP_SECONDS):
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
