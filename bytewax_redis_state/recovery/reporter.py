"""Reporter: tells a person what a session does.

Invariant: no reporter can stop, change or redirect a run; a session calls the user's reporter
through a guard, and only after it has acted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bytewax_redis_state.errors import StateError, shown

__all__ = ["GuardedReporter", "LogReporter", "Reporter", "Resumed"]

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Tells a person what a session does."""

    def say(self, line: str) -> None:
        """Show a line."""

    def warn(self, line: str) -> None:
        """Show a warning."""

    def progress(self, done: int, total: int) -> None:
        """Show how far a resume is, in state keys."""

    def resumed(self, resumed: Resumed) -> None:
        """Show what was resumed, when the engine is about to start."""

    def failed(self, error: StateError) -> None:
        """Show why this process of a cluster ends; it has no caller left to raise to."""


class LogReporter:
    """Tells the log instead of a person."""

    def say(self, line: str) -> None:
        """Log at level INFO."""
        logger.info("%s", line)

    def warn(self, line: str) -> None:
        """Log at level WARNING."""
        logger.warning("%s", line)

    def progress(self, done: int, total: int) -> None:
        """Log at level DEBUG."""
        logger.debug("resume done=%d total=%d", done, total)

    def resumed(self, resumed: Resumed) -> None:
        """Log at level INFO."""
        logger.info("resumed epoch=%d keys=%d", resumed.epoch, sum(resumed.keys.values()))

    def failed(self, error: StateError) -> None:
        """Log at level ERROR."""
        logger.error("stopped why=%s", error)


class GuardedReporter:
    """Pass everything on to a reporter, each line escaped, and let none of its errors out.

    :arg reporter: The user's. Its errors go to the log.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def say(self, line: str) -> None:
        """Show a line."""
        _guarded(self._reporter.say, shown(line))

    def warn(self, line: str) -> None:
        """Show a warning."""
        _guarded(self._reporter.warn, shown(line))

    def progress(self, done: int, total: int) -> None:
        """Show how far a resume is."""
        _guarded(self._reporter.progress, done, total)

    def resumed(self, resumed: Resumed) -> None:
        """Show what was resumed."""
        _guarded(self._reporter.resumed, resumed)

    def failed(self, error: StateError) -> None:
        """Show why this process ends."""
        _guarded(self._reporter.failed, error)


def _guarded(tell: Callable[..., None], *args: object) -> None:
    try:
        tell(*args)
    except (Exception, SystemExit):
        # The reporter is the user's, and may fail in any way. In a thread of ours its error would
        # end the thread: rich, for one, raises SystemExit where the reader of stderr has gone.
        logger.exception("the reporter failed")


@dataclass(frozen=True)
class Resumed:
    """What a run went on from.

    :arg epoch: First epoch of the run; 1 where nothing was ever committed.
    :arg keys: Short step name to number of state keys restored by this process.
    :arg seconds: How long the resume took, from the claim of the lease on.
    :arg generation: Number of the start.
    :arg expired: Short step name to number of state keys that this process missed because Redis
        had dropped them past their deadlines.
    """

    epoch: int
    keys: Mapping[str, int]
    seconds: float
    generation: int
    expired: Mapping[str, int] = field(default_factory=dict)
