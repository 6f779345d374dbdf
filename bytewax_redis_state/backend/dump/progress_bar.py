"""How far a dump or a restore is: told to a callback, or shown as a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OnProgress", "reporting"]

OnProgress = Callable[[int, int], object]
"""Gets the number of records done and an estimate of all."""


def _silent(done: int, total: int) -> None:
    """Say nothing."""


@contextmanager
def reporting(progress: OnProgress | bool, title: str) -> Iterator[OnProgress]:
    """Report how far the block is.

    :arg progress: A callback; ``True`` for a bar on stderr, where that is a terminal; or ``False``.
    :arg title: The text beside the bar.
    :returns: The callback for the block to call.
    """
    if progress is False:
        yield _silent
    elif progress is True:
        yield from _bar(title)
    else:
        yield progress


def _bar(title: str) -> Iterator[OnProgress]:
    # Imported here: Rich takes longer to import than a small checkpoint to write.
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _silent
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
