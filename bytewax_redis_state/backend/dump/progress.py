"""How far a long work is: to a callback, or to a bar on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OnProgress", "reporting"]

OnProgress = Callable[[int, int], object]
"""Gets what is done and an estimate of all."""


def _silent(done: int, total: int) -> None:
    """Say nothing."""


@contextmanager
def reporting(progress: OnProgress | bool, title: str) -> Iterator[OnProgress]:
    """Report while the block lasts.

    :arg progress: A callback; ``True`` for a bar on stderr, where that is a terminal; or ``False``.
    :arg title: What the bar is called.
    :returns: What to call with what is done and an estimate of all.
    """
    if progress is False:
        yield _silent
    elif progress is True:
        yield from _bar(title)
    else:
        yield progress


def _bar(title: str) -> Iterator[OnProgress]:
    # Rich takes longer to import than a small checkpoint to write.
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _silent
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
