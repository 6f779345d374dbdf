"""FailoverGuard: whether a failover may take back writes that Redis has acknowledged.

A server without replicas may get one while a flow runs, so Redis is asked again before each fold:
a fold is what a failover could damage, and no append has to wait for the question. Invariant: once
a failover was possible it counts as possible; a replica that is away may come back and be promoted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bytewax_redis_state.server.client import Client
from bytewax_redis_state.server.replicas import failover_possible

__all__ = ["FailoverGuard"]

logger = logging.getLogger(__name__)


class FailoverGuard:
    """Keeps whether a failover was ever possible.

    :arg is_on: Whether the start has found it possible.
    """

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self._to_do: list[Callable[[], None]] = []

    def when_possible(self, do: Callable[[], None]) -> None:
        """Do something once a failover is possible: now, or in the call of :meth:`look`."""
        if self.is_on:
            do()
        else:
            self._to_do.append(do)

    def look(self, client: Client) -> None:
        """Ask Redis again."""
        if self.is_on or not failover_possible(client):
            return
        logger.warning("replicas were attached: only what all of them have is folded from now on")
        self.is_on = True
        for do in self._to_do:
            do()
