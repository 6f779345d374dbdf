"""The confirmer: learns up to which row Redis is as sure as the settings want it to be.

It writes and waits on a connection of its own, so that shipping waits for no disk and no replica:
replication and the append-only file keep the order of writes, so what confirms a later write
confirms all rows before it. Where a failover is possible it also learns what may be folded: what
all replicas have. Invariant: a row counts as confirmed only after a write that followed it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.errors import ServerUnavailableError, StateError
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig, ReplicatorConnection
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.server.replicas import replicas_in_step, server_of
from bytewax_redis_state.server.translation import translated

__all__ = ["Confirmer"]

logger = logging.getLogger(__name__)

_WAIT_MILLISECONDS = 1000
_POLL_SECONDS = 0.05


class Confirmer:
    """Ask Redis how sure it is, in a thread, whenever rows were shipped.

    :arg setup: Of the replicator.
    :arg guard: Whether a failover is possible.
    :arg shipped: Tells the last row that Redis has acknowledged.
    """

    def __init__(
        self, setup: ReplicatorConfig, guard: FailoverGuard, shipped: Callable[[], int]
    ) -> None:
        self._setup = setup
        self._guard = guard
        self._durability = Durability.parse(setup.durability)
        self._shipped = shipped
        self._progress = setup.keys.progress(setup.partition, setup.generation)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="confirm", daemon=True)
        self._row = 0
        self._short = False
        self.failure: StateError | None = None

    @property
    def row(self) -> int:
        """Last row that is confirmed."""
        return self._shipped() if self._durability.level == "memory" else self._row

    def start(self) -> None:
        """Begin to ask; where an acknowledgement is enough, once a failover is possible."""
        if self._durability.level != "memory":
            self._thread.start()
        else:
            self._guard.then(self._thread.start)

    def stop(self) -> None:
        """End the thread, after the question that it may have asked."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def forget(self) -> None:
        """Begin anew: Redis has gone back behind what it had confirmed."""
        self._row = 0

    def _run(self) -> None:
        line = None
        while not self._stop.wait(_POLL_SECONDS):
            row = self._shipped()
            if row <= self._row:
                continue
            try:
                line = line or ReplicatorConnection(self._setup)
                if self._ask(line, row):
                    self._row = row
            except ServerUnavailableError as error:
                # Shipping meets the same trouble and reports it.
                logger.debug("confirmation put off reason=%s", error)
                line = None
            except StateError as error:
                self.failure = error
                return

    def _ask(self, line: ReplicatorConnection, row: int) -> bool:
        setup, level, guarded = self._setup, self._durability, self._guard.is_on
        with translated(line.address):
            # What is folded must be on all replicas: one that takes over would lack it for good.
            in_step = self._replicas_in_step(line) if guarded else 0
            wanted = max(level.replicas, in_step)
            with line.client.pipeline(transaction=False) as pipe:
                # In one trip: a connection that was made anew in between would wait for nothing.
                line.scripts.note_confirming(
                    self._progress, setup.incarnation, str(setup.token), row, pipe
                )
                if wanted:
                    pipe.wait(wanted, _WAIT_MILLISECONDS)
                if level.level == "aof":
                    pipe.waitaof(1, 0, _WAIT_MILLISECONDS)
                epoch, *answers = pipe.execute()
            count = int(answers[0]) if wanted else 0
            if epoch and count >= in_step and guarded:
                line.scripts.note_safe(self._progress, setup.incarnation, str(setup.token), epoch)
        if not epoch:
            return False  # shipping finds out why
        self._say(count)
        on_disk = level.level != "aof" or bool(answers[-1][0])
        return on_disk and count >= wanted

    def _replicas_in_step(self, line: ReplicatorConnection) -> int:
        return replicas_in_step(server_of(line.client, self._progress))

    def _say(self, count: int) -> None:
        short = count < self._durability.replicas
        if short and not self._short:
            logger.warning(
                "replicas behind confirmed=%d wanted=%d", count, self._durability.replicas
            )
        elif self._short and not short:
            logger.warning("replicas caught up confirmed=%d", count)
        self._short = short
