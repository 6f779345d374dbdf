"""The pruner: deletes rows from the outbox that Redis has confirmed long enough ago.

Invariant: a row leaves the outbox a margin after Redis acknowledged it, and not before Redis has
confirmed it: a Redis that comes back without its last writes gets them again from the outbox.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path

from bytewax_redis_state.recovery.outbox.outbox import Outbox
from bytewax_redis_state.recovery.outbox.scratch import LEAST_FREE, free_bytes
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig

__all__ = ["Pruner"]

logger = logging.getLogger(__name__)

_PRUNE_SECONDS = 1.0


class Pruner:
    """Prunes one outbox, once a second at most.

    :arg config: Of the replicator.
    :arg outbox: To delete from.
    """

    def __init__(self, config: ReplicatorConfig, outbox: Outbox) -> None:
        self._config = config
        self._outbox = outbox
        self._acknowledged: deque[tuple[float, int]] = deque()
        self._pruned_at = 0.0
        self._has_forgotten = False

    def note(self, row: int) -> None:
        """Note that Redis has acknowledged all rows up to this one just now."""
        self._acknowledged.append((time.monotonic(), row))

    @property
    def is_due(self) -> bool:
        """Whether the last deletion was long enough ago."""
        return time.monotonic() >= self._pruned_at + _PRUNE_SECONDS

    def forget_restored(self) -> None:
        """Delete the restored rows, once: for an engine that has committed and so loaded them."""
        if not self._has_forgotten:
            self._has_forgotten = self._outbox.forget_restored()

    def prune(self, confirmed: int, spare: int) -> None:
        """Delete what may go.

        :arg confirmed: ID of the last row that Redis has confirmed.
        :arg spare: Bytes of the outbox file that new rows can use.
        :raises ScratchError: If the scratch disk is full, or the outbox is gone.
        """
        self._pruned_at = now = time.monotonic()
        margin = self._config.margin if self._has_room(spare) else 0.0
        rows, up_to = self._acknowledged, 0
        while rows and rows[0][0] <= now - margin and rows[0][1] <= confirmed:
            up_to = rows.popleft()[1]
        if up_to:
            self._outbox.prune(up_to)

    def _has_room(self, spare: int) -> bool:
        free = free_bytes(Path(self._config.outbox)) + spare
        if free >= 2 * LEAST_FREE:
            return True
        logger.debug("margin given up free=%d", free)
        return False
