"""The checkpointer: folds a partition's journal every interval, beside the shipping of rows.

Invariant: it folds up to the least progress of all partitions, so nothing enters the keyed state
that a crash could still undo.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from bytewax_redis_state.errors import (
    ServerError,
    ServerUnavailableError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.recovery.cells import cells_of
from bytewax_redis_state.recovery.checkpoint import Folder
from bytewax_redis_state.recovery.setup import Line, Setup
from bytewax_redis_state.recovery.takeover import sweep
from bytewax_redis_state.server.translation import translated

__all__ = ["Checkpointer"]

logger = logging.getLogger(__name__)


class Checkpointer:
    """Folds the journal every interval, in a thread of its own so that shipping goes on.

    :arg setup: Of the replicator.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._line = Line(setup)
        self._journal = self._line.journal()
        steps = {name for name, _ in setup.steps.values()}
        self._folder = Folder(
            self._line.client,
            self._line.scripts,
            setup.keys,
            setup.incarnation,
            setup.generation,
            setup.partition,
            cells_of(sorted(steps), setup.shards),
            timed=setup.timed,
            offset=setup.offset,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        with translated(self._line.address):
            self.applied = self._progress(setup.partition, "trimmed") - 1
        self.failure: StateError | None = None

    def _progress(self, partition: int, field: str) -> int:
        key = self._setup.keys.progress(partition, self._setup.generation)
        value = self._line.client.hget(key, field)
        if value is None:
            raise StateLostError(
                f"the progress of partition {partition} is missing in Redis",
                "Redis was emptied under a running flow; start the flow again",
            )
        return int(value)

    def checkpoint(self) -> bool:
        """Fold up to the least progress of all partitions, then trim the journal.

        :returns: Whether the journal is folded to its end; else another partition is behind.
        """
        with translated(self._line.address):
            epochs = [
                self._progress(partition, "epoch") for partition in range(self._setup.partitions)
            ]
            target = min(epochs)
            # Asked each time: a Redis that has lost its tail has lost folds, too.
            self.applied = self._progress(self._setup.partition, "trimmed") - 1
            if target - 1 > self.applied:
                self._folder.fold(self._journal, self.applied, target - 1)
                self._journal.trim(target)
                self.applied = target - 1
            return epochs[self._setup.partition] == target

    def start(self) -> None:
        """Begin to fold every interval."""
        self._thread.start()

    def _run(self) -> None:
        if self._setup.partition == 0:
            with suppress(ServerError), translated(self._line.address):  # the next start's turn
                sweep(self._line.client, self._setup.keys, self._setup.generation)
        while not self._stop.wait(self._setup.checkpoint_interval):
            try:
                self.checkpoint()
            except ServerUnavailableError as error:
                # Shipping meets the same trouble and reports it; the next round folds more.
                logger.debug("checkpoint put off reason=%s", error)
            except StateError as error:
                self.failure = error
                return

    def stop(self) -> None:
        """End the thread, after the fold that it may be in."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
