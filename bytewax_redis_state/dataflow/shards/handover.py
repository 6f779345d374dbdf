"""The handover: restored states wait in memory for the shards that the engine builds of them.

The engine loads rows of its recovery partition and hands each to a builder. What a resume has read
is in the same process already, so a row only says where: no copy goes through a file, however large
a cell is.

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
        self._random = os.urandom(8)
        self._numbers = count()
        self._waiting: dict[bytes, Mapping[str, bytes]] = {}

    def leave(self, states: Mapping[str, bytes]) -> bytes:
        """Leave the states of a cell.

        :arg states: State key to encoded state; not to be changed any more.
        :returns: What :meth:`take` gives them for.
        """
        ticket = self._random + b"%d" % next(self._numbers)
        self._waiting[ticket] = states
        return ticket

    def take(self, ticket: bytes) -> Mapping[str, bytes]:
        """Take the states of a cell.

        :arg ticket: From :meth:`leave`.
        :returns: What was left.
        :raises DecodeError: If nothing waits: it was taken already, or left in another process.
        """
        try:
            return self._waiting.pop(ticket)
        except KeyError:
            raise DecodeError(
                "the engine asks for restored state that does not wait in this process",
                "use a session for one run of its flow, in the process that opened it",
            ) from None
