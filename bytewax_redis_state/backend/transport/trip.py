"""What becomes of a trip that came to nothing."""

from __future__ import annotations

__all__ = ["TripError"]


class TripError(Exception):
    """A trip came to nothing.

    :arg cause: What redis-py said.
    :arg sent: Whether the server may have carried the commands out.
    """

    def __init__(self, cause: Exception, *, sent: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.sent = sent
