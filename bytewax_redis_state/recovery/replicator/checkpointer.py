"""The checkpointer: a thread that folds a partition's journal every interval.

After a failover a client's connections may reach the old and the new primary for a while, and of a
cluster only one server may have gone back. A fold that goes to the one and a trim to the other
would lose the folded entries. So where a failover is possible, only what all replicas have is
folded, and the journal is trimmed a margin later: a cell that went back is folded again.

Invariant: it folds up to the least progress of all partitions, so nothing enters the keyed state
that a crash could still undo.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from typing import NamedTuple, cast

from bytewax_redis_state.errors import (
    ServerError,
    ServerUnavailableError,
    StateLostError,
)
from bytewax_redis_state.recovery.records.cells import cells_of
from bytewax_redis_state.recovery.records.fold import CellBehindError, JournalFold
from bytewax_redis_state.recovery.records.progress import Progress
from bytewax_redis_state.recovery.records.sweep import sweep
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.recovery.watched_thread import WatchedThread
from bytewax_redis_state.server.replicas import run_id_of
from bytewax_redis_state.server.translation import translated

__all__ = ["Checkpointer"]

logger = logging.getLogger(__name__)


class _Progress(NamedTuple):
    """How far a partition is.

    :arg epoch: Everything below it is in the journal.
    :arg trimmed: Everything below it has left the journal.
    :arg foldable: Everything below it may be folded.
    """

    epoch: int
    trimmed: int
    foldable: int


class Checkpointer:
    """Folds the journal every interval, in a thread of its own so that shipping goes on.

    :arg config: Of the replicator.
    :arg guard: Whether a failover is possible; asked before each fold.
    """

    def __init__(self, config: ReplicatorConfig, guard: FailoverGuard) -> None:
        self._config = config
        self._guard = guard
        self._connection = ReplicatorConnection(config)
        self._journal = self._connection.journal()
        steps = {name for name, _ in config.steps.values()}
        self._journal_fold = JournalFold(
            self._connection.store,
            config.partition,
            cells_of(sorted(steps), config.shards),
            timed=config.timed,
            offset=config.offset,
        )
        self._manifest: dict[bytes, bytes] = {}
        self._folds: deque[tuple[float, int]] = deque()
        self.thread = WatchedThread("checkpointer", self._run)
        with translated(self._connection.address):
            self.applied = self._progress(config.partition).trimmed - 1

    def _progress(self, partition: int) -> _Progress:
        key = self._config.keys.progress(partition, self._config.generation)
        fields = cast("dict[bytes, bytes]", self._connection.client.hgetall(key))
        found = Progress.parse(self._config.keys, key, fields, self._config.incarnation)
        return self._foldable(found)

    def _foldable(self, found: Progress) -> _Progress:
        foldable = (found.safe or found.trimmed) if self._guard.is_on else found.epoch
        return _Progress(found.epoch, found.trimmed, foldable)

    def _hold_flow(self) -> None:
        """Write the manifest or the counter again, where somebody has deleted one of them.

        The next start would be refused for good, and the flow knows what they hold.

        :raises StateLostError: If both are gone.
        """
        client, keys = self._connection.client, self._config.keys
        own = str(self._config.token)
        manifest = cast("dict[bytes, bytes]", client.hgetall(keys.manifest))
        counter = client.exists(keys.generation)
        if manifest.get(b"generation") == own.encode():
            self._manifest = manifest
        if (manifest and counter) or not self._manifest:
            return
        verdict = self._connection.scripts.hold_flow(
            keys.generation, keys.manifest, self._config.incarnation, own, self._manifest
        )
        if verdict == "gone":
            raise StateLostError(
                f"the manifest {keys.manifest.decode()!r} and the generation counter are missing",
                way_out(keys),
            )
        if verdict != "held":
            logger.warning("%s was gone from Redis, written again", verdict)

    def _run_id(self) -> str:
        """Ask which run of the server this is; of more than one, trims come a margin later."""
        return run_id_of(self._connection.client, guarded=self._guard.is_on)

    def checkpoint(self) -> bool:
        """Fold up to the least progress of all partitions, then trim the journal.

        :returns: Whether the journal is folded to its end; else another partition is behind.
        """
        with translated(self._connection.address):
            self._guard.look(self._connection.client)
            run_id = self._run_id()
            found = [self._progress(partition) for partition in range(self._config.partitions)]
            # What was deleted from the journal is missed before the fold, not by the next start.
            own = found[self._config.partition] = self._foldable(self._journal.look())
            target = min(part.foldable for part in found)
            if self._config.partition == 0:  # only beside partitions that are whole
                self._hold_flow()
            # Asked each time: a server that has lost its last writes has lost folds, too.
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
            self._journal_fold.fold(self._journal, self.applied, target - 1)
        except CellBehindError as behind:
            if self.applied == trimmed - 1:
                if self._progress(self._config.partition).trimmed < trimmed:  # since it was asked
                    raise ServerUnavailableError("Redis went back under a fold") from behind
                raise StateLostError(behind.message, behind.hint) from behind
            logger.warning("cells went back, folded again epoch=%d why=%s", trimmed, behind.message)
            self.applied = trimmed - 1
            self._folds.clear()
            self._fold(trimmed, target)

    def _trim(self, trimmed: int, run_id: str) -> None:
        kept_since = time.monotonic() - (self._config.margin if self._guard.is_on else 0.0)
        below = trimmed
        while self._folds and self._folds[0][0] <= kept_since:
            below = self._folds.popleft()[1]
        if below > trimmed:
            self._journal.trim(below, run_id)

    def start(self) -> None:
        """Begin to fold every interval.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self.thread.start()

    def _run(self) -> None:
        if self._config.partition == 0:
            with (
                suppress(ServerError),
                translated(self._connection.address),
            ):  # the next start sweeps too
                sweep(self._connection.store)
        while not self.thread.wait(self._config.checkpoint_interval):
            try:
                self.checkpoint()
            except ServerUnavailableError as error:
                # Shipping meets the same trouble and reports it; the next fold takes more.
                logger.debug("checkpoint put off reason=%s", error)

    def stop(self) -> None:
        """End the thread, after the fold that it may be in."""
        self.thread.stop()
