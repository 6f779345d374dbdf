"""Backoff: how long to wait before something that failed is tried again.

Invariant: waits double up to a bound. So a server that is away is not asked in a busy loop, and a
server that is back is noticed within the bound.
"""

from __future__ import annotations

__all__ = ["LEAST_SECONDS", "MOST_SECONDS", "Backoff"]

LEAST_SECONDS = 0.05
"""The first wait."""
MOST_SECONDS = 1.0
"""The longest wait."""


class Backoff:
    """Count the waits of one retried operation."""

    def __init__(self) -> None:
        self._next = LEAST_SECONDS

    def reset(self) -> None:
        """Make the next wait a short one: the operation has succeeded."""
        self._next = LEAST_SECONDS

    def next(self) -> float:
        """Give the seconds to wait now, and make the next wait a longer one."""
        seconds = self._next
        self._next = min(2 * seconds, MOST_SECONDS)
        return seconds
