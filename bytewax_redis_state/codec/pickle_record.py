"""The pickle record: the steps whose state the flow itself has ever pickled.

Whoever can write a state key of a flow can put a pickle there, and loading it runs code. Most flows
never pickle: then a pickle in their state is somebody else's. So a flow reads pickles only of steps
that this record names. A start fills it from the manifest; a process adds a step when it encodes
the step's first pickle, and marks the delta, so that the manifest knows before the pickle is sent.

Invariant: a step that is in the record stays there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["PickleRecord"]


class PickleRecord:
    """Short names of steps; any number of threads may use it."""

    def __init__(self) -> None:
        self._steps: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def __contains__(self, step: str) -> bool:
        return step in self._steps

    def update(self, steps: Iterable[str]) -> None:
        """Add the steps that the manifest names."""
        with self._lock:
            self._steps |= {*steps}

    def add(self, step: str) -> bool:
        """Add a step.

        :returns: Whether the step is new.
        """
        with self._lock:
            is_new = step not in self._steps
            self._steps |= {step}
            return is_new
