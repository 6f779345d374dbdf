"""What a person sees while something works: lines and a progress bar on standard error.

Invariant: standard output belongs to the flow; nothing of ours goes there.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bytewax_redis_state.errors import StateError
from bytewax_redis_state.recovery.reporter import Resumed

__all__ = ["ConsoleReporter", "PatientBar", "print_error"]

_QUIET_SECONDS = 1.0  # what is over sooner needs no bar


def _stderr() -> Console:
    # Names are shown as they are; and an interrupt must not find rich importing its emojis.
    return Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)


class PatientBar:
    """A progress bar that shows on a terminal only, and only once the work has taken a second.

    :arg doing: What is under way: ``resuming``.
    :arg things: What is counted: ``keys``.
    """

    def __init__(self, doing: str, things: str, console: Console | None = None) -> None:
        self._doing = doing
        self._things = things
        self._console = console or _stderr()
        self._progress: Progress | None = None
        self._since: float | None = None

    def update(self, done: int, total: int) -> None:
        """Show how far it is, with the time left."""
        now = time.monotonic()
        self._since = self._since or now
        if self._progress is None:
            if now < self._since + _QUIET_SECONDS or not self._console.is_terminal:
                return
            self._progress = Progress(
                TextColumn(self._doing),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self._things}, left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.add_task(self._doing, total=total)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done)

    def stop(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class ConsoleReporter:
    """Tells a person; the progress bar shows on a terminal only, and only when it is worth it."""

    def __init__(self) -> None:
        self._console = _stderr()
        self._bar = PatientBar("resuming", "keys", self._console)

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(f"bytewax-redis-state: {text}", style=style, markup=False)

    def say(self, line: str) -> None:
        """Show a line."""
        self._line(line)

    def warn(self, line: str) -> None:
        """Show a warning."""
        self._line(f"warning: {line}", "yellow")

    def progress(self, done: int, total: int) -> None:
        """Show how far a resume is, with the time left, once it has taken a second."""
        self._bar.update(done, total)

    def resumed(self, resumed: Resumed) -> None:
        """Show what was resumed, in one line."""
        self._bar.stop()
        if resumed.epoch == 1:
            self._line(f"starting anew at epoch 1, generation {resumed.generation}")
            return
        keys = ", ".join(f"{count} {step}" for step, count in resumed.keys.items())
        self._line(
            f"resumed at epoch {resumed.epoch}, generation {resumed.generation}, "
            f"keys: {keys}, in {resumed.seconds:.1f} s"
        )

    def failed(self, error: StateError) -> None:
        """Show why this process of a cluster ends."""
        print_error(error)


def print_error(error: StateError) -> None:
    """Show an error in one line: what is wrong and what to do."""
    _stderr().print(f"bytewax-redis-state: error: {error}", style="red", markup=False)
