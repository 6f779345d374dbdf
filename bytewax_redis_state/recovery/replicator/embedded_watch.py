"""EmbeddedWatch: the thread that starts an embedded server again which has ended under its flow.

Invariant: it starts a server only where keeper and server of the directory are both gone, and by
the same steps as a start: a directory never has two servers.
"""

from __future__ import annotations

import logging
from pathlib import Path

from bytewax_redis_state.errors import StateError
from bytewax_redis_state.recovery.watched_thread import WatchedThread
from bytewax_redis_state.server.embedded import is_down, start_embedded

__all__ = ["EmbeddedWatch"]

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5  # a small part of the lease's time


class EmbeddedWatch:
    """Looks after the server of one directory.

    :arg directory: Of the embedded server.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.thread = WatchedThread("embedded", self._run)

    def start(self) -> None:
        """Begin to look.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self.thread.start()

    def _run(self) -> None:
        failed = False
        while not self.thread.wait(_LOOK_SECONDS):
            if not is_down(self._directory):
                continue
            if not failed:
                logger.warning("embedded server ended, starting it again in=%s", self._directory)
            try:
                start_embedded(self._directory)
                failed = False
            # Whatever it is, shipping waits for Redis, and drains in vain if it does not come back.
            except (StateError, OSError) as error:
                if not failed:
                    logger.warning("embedded server not started why=%s", error)
                failed = True
