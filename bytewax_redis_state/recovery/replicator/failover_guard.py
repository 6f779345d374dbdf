"""The guard: whether a failover may take back what Redis has acknowledged.

A server without replicas may get one while a flow runs, so it is asked again before each fold: that
is where it matters, and no append waits for it. Invariant: once a failover was possible it counts
as possible; a replica that is away may come back, and be chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from bytewax_redis_state.server.client import Client
from bytewax_redis_state.server.replicas import may_go_back

__all__ = ["FailoverGuard"]

logger = logging.getLogger(__name__)


class FailoverGuard:
    """What was found so far.

    :arg known: What the start has found.
    """

    def __init__(self, known: bool) -> None:
        self.is_on = known
        self._then: list[Callable[[], None]] = []

    def then(self, do: Callable[[], None]) -> None:
        """Do something once a failover is possible: now, or in the call of :meth:`look`."""
        if self.is_on:
            do()
        else:
            self._then.append(do)

    def look(self, client: Client) -> None:
        """Ask again."""
        if self.is_on or not may_go_back(client):
            return
        logger.warning("replicas have come: only what they have is folded from now on")
        self.is_on = True
        for do in self._then:
            do()
