"""Lines and a progress bar on standard error, for a person who watches.

Invariant: standard output belongs to the flow: nothing of ours goes there, and it is never
redirected. Where nobody reads standard error any more, lines are lost, and nothing else happens.
"""

from __future__ import annotations

import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bytewax_redis_state.errors import StateError, shown
from bytewax_redis_state.recovery.reporter import Resumed

__all__ = ["ConsoleReporter", "DelayedBar", "print_error"]

_DELAY_SECONDS = 1.0


class _StderrConsole(Console):
    """Standard error, whose reader may go away."""

    def __init__(self) -> None:
        # Names are shown as they are; and an interrupt must not find rich importing its emojis.
        super().__init__(stderr=True, emoji=False, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Show nothing from now on.

        Rich itself redirects standard *output*, which is the flow's, to the null device, and raises
        SystemExit, which ends a thread.
        """
        self.quiet = True

    def show(self, text: str, style: str) -> None:
        """Show a line, escaped; lose it where it can't be shown."""
        # A terminal that was closed is an OSError, a stream that the flow has closed a ValueError.
        with suppress(OSError, ValueError):
            self.print(f"bytewax-redis-state: {shown(text)}", style=style, markup=False)


class DelayedBar:
    """A progress bar that shows on a terminal only, and only once the work has taken a second.

    :arg doing: The work: ``resuming``.
    :arg things: The things that are counted: ``keys``.
    """

    def __init__(self, doing: str, things: str, console: Console | None = None) -> None:
        self._doing = doing
        self._things = things
        self._console = console or _StderrConsole()
        self._progress: Progress | None = None
        self._since: float | None = None

    def update(self, done: int, total: int) -> None:
        """Show how far the work is, with the time left."""
        now = time.monotonic()
        self._since = self._since or now
        if self._progress is None:
            if now < self._since + _DELAY_SECONDS or not self._console.is_terminal:
                return
            self._progress = Progress(
                TextColumn(self._doing),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self._things}, left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
                # Else all that the flow prints meanwhile would go to standard error.
                redirect_stdout=False,
                redirect_stderr=False,
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
    """Tell a person by lines on standard error, and by a progress bar while a resume is long."""

    def __init__(self) -> None:
        self._console = _StderrConsole()
        self._bar = DelayedBar("resuming", "keys", self._console)

    def say(self, line: str) -> None:
        """Show a line."""
        self._console.show(line, "")

    def warn(self, line: str) -> None:
        """Show a warning."""
        self._console.show(f"warning: {line}", "yellow")

    def progress(self, done: int, total: int) -> None:
        """Show how far a resume is, with the time left, once it has taken a second."""
        self._bar.update(done, total)

    def resumed(self, resumed: Resumed) -> None:
        """Show what was resumed, in one line."""
        self._bar.stop()
        if resumed.epoch == 1:
            self.say(f"starting at epoch 1 without state, generation {resumed.generation}")
            return
        keys = ", ".join(f"{count} {step}" for step, count in resumed.keys.items())
        self.say(
            f"resumed at epoch {resumed.epoch}, generation {resumed.generation}, "
            f"keys: {keys}, in {resumed.seconds:.1f} s"
        )

    def failed(self, error: StateError) -> None:
        """Show why this process of a cluster ends."""
        self.close()
        print_error(error)

    def close(self) -> None:
        """Remove the progress bar, and show the cursor again, where a resume has failed."""
        self._bar.stop()


def print_error(error: StateError) -> None:
    """Show an error in one line: what happened and what to do."""
    _StderrConsole().show(f"error: {error}", "red")
