"""The checkpointer: folds a partition's journal every interval, beside the shipping of rows.

A failover takes a server back, and on a cluster only one of several; what was read before it and
what is written after it don't fit together. So where one is possible only what all replicas have is
folded, and the journal stays as it is for a margin after the fold: a cell that went back is folded
anew.

Invariant: it folds up to the least progress of all partitions, so nothing enters the keyed state
that a crash could still undo.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from bytewax_redis_state.errors import (
    ServerError,
    ServerUnavailableError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.recovery.records.cells import cells_of
from bytewax_redis_state.recovery.records.fold import CellBehindError, Folder
from bytewax_redis_state.recovery.records.sweep import sweep
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig, ReplicatorConnection
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.server.replicas import run_of
from bytewax_redis_state.server.translation import translated

__all__ = ["Checkpointer"]

logger = logging.getLogger(__name__)


class _Progress(NamedTuple):
    """How far a partition is: in its journal, folded and forgotten, and what may be folded."""

    epoch: int
    trimmed: int
    foldable: int


class Checkpointer:
    """Folds the journal every interval, in a thread of its own so that shipping goes on.

    :arg setup: Of the replicator.
    :arg guard: Whether a failover is possible; asked before each fold.
    """

    def __init__(self, setup: ReplicatorConfig, guard: FailoverGuard) -> None:
        self._setup = setup
        self._guard = guard
        self._line = ReplicatorConnection(setup)
        self._journal = self._line.journal()
        steps = {name for name, _ in setup.steps.values()}
        self._folder = Folder(
            self._line.client,
            self._line.scripts,
            setup.keys,
            setup.incarnation,
            setup.token,
            setup.partition,
            cells_of(sorted(steps), setup.shards),
            timed=setup.timed,
            offset=setup.offset,
        )
        self._folds: deque[tuple[float, int]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        with translated(self._line.address):
            self.applied = self._progress(setup.partition).trimmed - 1
        self.failure: StateError | None = None

    def _progress(self, partition: int) -> _Progress:
        key = self._setup.keys.progress(partition, self._setup.generation)
        epoch, trimmed, safe = self._line.client.hmget(key, "epoch", "trimmed", "safe")
        if epoch is None or trimmed is None:
            raise StateLostError(
                f"the progress of partition {partition} is missing in Redis",
                "Redis was emptied under a running flow; start the flow again",
            )
        foldable = (safe or trimmed) if self._guard.is_on else epoch
        return _Progress(int(epoch), int(trimmed), int(foldable))

    def _run_id(self) -> str:
        """Ask which run of the server this is; of more than one, trims come a margin later."""
        return run_of(self._line.client, guarded=self._guard.is_on)

    def checkpoint(self) -> bool:
        """Fold up to the least progress of all partitions, then trim the journal.

        :returns: Whether the journal is folded to its end; else another partition is behind.
        """
        with translated(self._line.address):
            self._guard.look(self._line.client)
            run_id = self._run_id()
            found = [self._progress(partition) for partition in range(self._setup.partitions)]
            own, target = found[self._setup.partition], min(part.foldable for part in found)
            # Asked each time: one server that has lost its tail has lost folds, too.
            folded = own.trimmed - 1
            self.applied = max(self.applied, folded) if self._guard.is_on else folded
            if target - 1 > self.applied:
                self._fold(own.trimmed, target)
                self.applied = target - 1
                self._folds.append((time.monotonic(), target))
            self._trim(own.trimmed, run_id)
            return own.epoch == target

    def _fold(self, trimmed: int, target: int) -> None:
        try:
            self._folder.fold(self._journal, self.applied, target - 1)
        except CellBehindError as behind:
            if self.applied == trimmed - 1:
                if self._progress(self._setup.partition).trimmed < trimmed:  # since it was asked
                    raise ServerUnavailableError("Redis went back under a fold") from behind
                raise StateLostError(behind.message, behind.hint) from behind
            logger.warning("cells went back, folded anew epoch=%d why=%s", trimmed, behind.message)
            self.applied = trimmed - 1
            self._folds.clear()
            self._fold(trimmed, target)

    def _trim(self, trimmed: int, run_id: str) -> None:
        kept_since = time.monotonic() - (self._setup.margin if self._guard.is_on else 0.0)
        below = trimmed
        while self._folds and self._folds[0][0] <= kept_since:
            below = self._folds.popleft()[1]
        if below > trimmed:
            self._journal.trim(below, run_id)

    def start(self) -> None:
        """Begin to fold every interval."""
        self._thread.start()

    def _run(self) -> None:
        if self._setup.partition == 0:
            with suppress(ServerError), translated(self._line.address):  # the next start's turn
                sweep(self._line.client, self._line.scripts, self._setup.keys, self._setup.token)
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
