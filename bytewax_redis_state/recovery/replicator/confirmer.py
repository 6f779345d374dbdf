"""The confirmer: a thread that asks Redis which rows are as durable as the settings want.

It writes and waits on a connection of its own, so that shipping waits for no disk and no replica.
Replication and the append-only file keep the order of writes, so the confirmation of a later write
confirms all rows before it. Where a failover is possible, the confirmer also finds the epoch below
which everything may be folded: everything that all replicas have. Invariant: a row counts as
confirmed only after a write that followed it was confirmed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.recovery.replicator.backoff import Backoff
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.recovery.watched_thread import WatchedThread
from bytewax_redis_state.server.replicas import replicas_in_step, server_of
from bytewax_redis_state.server.translation import translated

__all__ = ["Confirmer"]

logger = logging.getLogger(__name__)

_WAIT_MILLISECONDS = 1000
_POLL_SECONDS = 0.05


class Confirmer:
    """Asks, in a thread, whenever rows were shipped.

    :arg config: Of the replicator.
    :arg guard: Whether a failover is possible.
    :arg shipped: Gives the ID of the last row that Redis has acknowledged.
    """

    def __init__(
        self, config: ReplicatorConfig, guard: FailoverGuard, shipped: Callable[[], int]
    ) -> None:
        self._config = config
        self._guard = guard
        self._durability = Durability.parse(config.durability)
        self._shipped = shipped
        self._progress = config.keys.progress(config.partition, config.generation)
        self._connection: ReplicatorConnection | None = None
        self._backoff = Backoff()
        self._row = 0
        self._is_short = False
        self.thread = WatchedThread("confirmer", self._run)

    @property
    def row(self) -> int:
        """ID of the last row that is confirmed."""
        return self._shipped() if self._durability.level == "memory" else self._row

    def start(self) -> None:
        """Begin to ask; where an acknowledgement is enough, once a failover is possible.

        :raises ReplicatorError: If the system has no thread to give.
        """
        if self._durability.level != "memory":
            self.thread.start()
        else:
            self._guard.when_possible(self.thread.start)

    def stop(self) -> None:
        """End the thread, after the question that it may have asked."""
        self.thread.stop()

    def forget(self) -> None:
        """Count no row as confirmed: Redis has lost writes that it had confirmed."""
        self._row = 0

    def _run(self) -> None:
        pause = _POLL_SECONDS
        while not self.thread.wait(pause):
            row = self._shipped()
            pause = _POLL_SECONDS if row <= self._row else self._try(row)

    def _try(self, row: int) -> float:
        """Ask whether a row is confirmed.

        :returns: Seconds to wait before the next question.
        """
        try:
            self._connection = self._connection or ReplicatorConnection(self._config)
            if self._is_confirmed(self._connection, row):
                self._row = row
        except ServerUnavailableError as error:
            # Shipping meets the same trouble and reports it.
            logger.debug("confirmation put off reason=%s", error)
            self._disconnect()
            return self._backoff.next()
        self._backoff.reset()
        return _POLL_SECONDS

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.client.close()
            self._connection = None

    def _is_confirmed(self, connection: ReplicatorConnection, row: int) -> bool:
        config, durability, is_guarded = self._config, self._durability, self._guard.is_on
        token = str(config.token)
        with translated(connection.address):
            # What is folded must be on all replicas: one that takes over would lack it for good.
            in_step = self._replicas_in_step(connection) if is_guarded else 0
            wanted = max(durability.replicas, in_step)
            with connection.client.pipeline(transaction=False) as pipe:
                # WAIT and WAITAOF wait for the last write of their own connection. So they go in
                # one trip with the write: on a connection that was made again in between, there
                # would be no write to wait for.
                connection.scripts.note_confirming(
                    self._progress, config.incarnation, token, row, pipe
                )
                if wanted:
                    pipe.wait(wanted, _WAIT_MILLISECONDS)
                if durability.level == "aof":
                    pipe.waitaof(1, 0, _WAIT_MILLISECONDS)
                epoch, *answers = pipe.execute()
            count = int(answers[0]) if wanted else 0
            if epoch and count >= in_step and is_guarded:
                connection.scripts.note_safe(self._progress, config.incarnation, token, epoch)
        if not epoch:
            return False  # fenced, or the keys are lost: shipping finds out which
        self._log_shortage(count)
        on_disk = durability.level != "aof" or bool(answers[-1][0])
        return on_disk and count >= wanted

    def _replicas_in_step(self, connection: ReplicatorConnection) -> int:
        return replicas_in_step(server_of(connection.client, self._progress))

    def _log_shortage(self, count: int) -> None:
        is_short = count < self._durability.replicas
        if is_short and not self._is_short:
            logger.warning(
                "replicas behind confirmed=%d wanted=%d", count, self._durability.replicas
            )
        elif self._is_short and not is_short:
            logger.warning("replicas caught up confirmed=%d", count)
        self._is_short = is_short
