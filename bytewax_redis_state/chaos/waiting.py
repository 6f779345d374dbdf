"""Wait for a condition, with a bound: a harness that waits for ever reports nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["BOUND_SECONDS", "wait_until"]

BOUND_SECONDS = 240.0
"""How long the harness waits for a condition before it calls it failed.

A bound that is reached is a failure, so it costs nothing where all is well. On a machine with eight
runnable processes for each core, the end of two dataflow processes was seen to take over 30 s.
"""

_POLL_SECONDS = 0.005


def wait_until(condition: Callable[[], Any], awaited: str, seconds: float = BOUND_SECONDS) -> Any:
    """Wait for a condition.

    :arg awaited: The condition in words, for the error.
    :returns: The first true value of the condition.
    :raises TimeoutError: If it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{awaited}: not after {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
    return value
