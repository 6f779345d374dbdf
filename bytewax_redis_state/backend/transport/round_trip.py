"""The error of a round trip that brought no replies."""

from __future__ import annotations

__all__ = ["RoundTripError"]


class RoundTripError(Exception):
    """Commands were to be sent and replies received, and there is no full set of replies.

    :arg cause: The error that redis-py raised.
    :arg sent: Whether the server may have carried the commands out.
    """

    def __init__(self, cause: Exception, *, sent: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.sent = sent
