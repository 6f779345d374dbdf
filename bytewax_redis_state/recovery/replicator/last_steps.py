"""LastSteps: what a drain does once the last row is shipped.

1. End the renewal, where one goes on: every answer is in the journal.
2. Fold the journal: the keyed state holds the last epochs of the run.
3. Wait for the confirmation: what the run has written is as durable as the settings want.

Invariant: each step may be repeated, so a drain that meets a Redis that is away begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bytewax_redis_state.errors import ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.confirmer import Confirmer
from bytewax_redis_state.recovery.replicator.renewal import Renewal

__all__ = ["LastSteps"]

_POLL_SECONDS = 0.05
_OTHERS_SECONDS = 2.0  # how long to wait for the last rows of the other processes


class LastSteps:
    """The last steps of one replicator.

    :arg config: Of the replicator.
    :arg checkpointer: To fold with; its thread has ended.
    :arg confirmer: Knows which rows are confirmed.
    :arg renewal: Of a flow that Redis has lost while it ran.
    :arg require_threads: Raises the error of a thread that has failed.
    """

    def __init__(
        self,
        config: ReplicatorConfig,
        checkpointer: Checkpointer,
        confirmer: Confirmer,
        renewal: Renewal | None,
        require_threads: Callable[[], None],
    ) -> None:
        self._config = config
        self._checkpointer = checkpointer
        self._confirmer = confirmer
        self._renewal = renewal
        self._require_threads = require_threads

    def take(self, row: int, deadline: float) -> None:
        """Take the steps.

        :arg row: ID of the last row, which is shipped.
        :arg deadline: When to give up, as ``time.monotonic()`` has it.
        :raises ServerUnavailableError: If Redis is away, or has not confirmed the row in time.
        :raises StateLostError: If the flow ends in the middle of a renewal.
        """
        self._end_renewal(deadline)
        self._fold()
        self._await_confirmation(row, deadline)

    def _end_renewal(self, deadline: float) -> None:
        """Wait for the answers of the other processes; those of our own shards are shipped."""
        patience = min(deadline, time.monotonic() + _OTHERS_SECONDS)
        while self._renewal is not None and not self._renewal.is_done:
            self._renewal.look()
            if time.monotonic() > patience:
                raise StateLostError(
                    f"Redis was emptied while the flow {self._config.flow_id!r} ran, and the flow "
                    "ended before its state was whole again",
                    way_out(self._config.keys),
                )
            time.sleep(_POLL_SECONDS)

    def _fold(self) -> None:
        """Fold; the other processes, which end too, get a moment to ship as far as this one.

        Else the keyed state of a run that ended well would lack its last epochs until the next run.
        """
        patience = time.monotonic() + _OTHERS_SECONDS
        while not self._checkpointer.checkpoint() and time.monotonic() < patience:
            self._require_threads()
            time.sleep(_POLL_SECONDS)

    def _await_confirmation(self, row: int, deadline: float) -> None:
        while self._confirmer.row < row:
            self._require_threads()
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"Redis has not confirmed {self._config.durability!r} of all rows in time"
                )
            time.sleep(_POLL_SECONDS)
