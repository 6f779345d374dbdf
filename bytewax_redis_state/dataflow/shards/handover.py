"""The handover: restored states wait in memory until the engine builds the shards for them.

The engine loads the rows of its recovery partition and gives each to a builder. The session has
read the states in the same process already, so a row holds only a ticket for them. To pack a
million keys, write them to the scratch disk, read and unpack them would be four copies for nothing;
and a ticket is never near SQLite's limit of 1 GB a row.

Invariant: a cell is handed over once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count

from bytewax_redis_state.errors import DecodeError

__all__ = ["Handover"]


class Handover:
    """Keep restored states until their shards are built; from any thread."""

    def __init__(self) -> None:
        self._random = os.urandom(8)  # a ticket of another process must not be taken for ours
        self._numbers = count()
        self._waiting: dict[bytes, Mapping[str, bytes]] = {}

    def put(self, states: Mapping[str, bytes]) -> bytes:
        """Keep the states of a cell.

        :arg states: State key to encoded state; the caller must not change it afterwards.
        :returns: The ticket for which :meth:`take` gives the states.
        """
        ticket = self._random + b"%d" % next(self._numbers)
        self._waiting[ticket] = states
        return ticket

    def take(self, ticket: bytes) -> Mapping[str, bytes]:
        """Take the states of a cell.

        :arg ticket: From :meth:`put`.
        :returns: The states of the cell.
        :raises DecodeError: If no states wait: they were taken already, or are in another process.
        """
        try:
            return self._waiting.pop(ticket)
        except KeyError:
            raise DecodeError(
                f"no restored state waits in this process for the ticket {ticket!r}",
                "use each session for one run of its flow, in the process that opened it",
            ) from None
