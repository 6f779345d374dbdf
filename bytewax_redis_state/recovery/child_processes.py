"""Children of the flow's process that are forked, as by a process pool: nothing of ours survives.

A fork copies descriptors, and close-on-exec does nothing for a child that never executes another
program. It would hold the replicator's input open, and keep the scratch folder locked after the
flow's end; a signal that is meant for the child would end in a handler of the run's.

Invariant: a child of :func:`os.fork` gives up all of it before its first line of Python runs, and
before it takes a signal: one that comes sooner, as from a pool that ends at once, waits until then.
What a library forks by itself, past Python, is not seen here: so nothing that ends a run may depend
on it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["close_in_children", "in_each_child"]

_duties: dict[object, Callable[[], object]] = {}


def in_each_child(give_up: Callable[[], object]) -> Callable[[], None]:
    """Have a function called in each child that is forked from now on.

    :arg give_up: Called in the child, in its only thread; it must take no lock.
    :returns: Ends that: to be called once the thing to give up is gone.
    """
    token = object()
    _duties[token] = give_up
    return lambda: _duties.pop(token, None) and None


def close_in_children(descriptor: int) -> Callable[[], None]:
    """Have a descriptor closed in each child that is forked from now on.

    :arg descriptor: Of this process; it stays open here.
    :returns: Ends that: to be called before the descriptor is closed here, since its number may
        then be somebody else's.
    """
    return in_each_child(lambda: _replace(descriptor))


def _replace(descriptor: int) -> None:
    # Objects of the parent, which the child has copies of, may close it once more: so its number
    # stays taken.
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


class _Masks(threading.local):
    """The signal masks from before the forks that this thread is in."""

    def __init__(self) -> None:
        self.before: list[set[int]] = []


_masks = _Masks()


def _before_fork() -> None:
    # A fork takes the mask along. With a handler of the run's, the child would lose the signal:
    # Python forgets it after the fork, or the handler raises where nothing can be raised.
    block = {signal.SIGINT, signal.SIGTERM} if _duties else set()
    _masks.before.append(signal.pthread_sigmask(signal.SIG_BLOCK, block))


def _after_fork() -> None:
    if _masks.before:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before.pop())


def _in_child() -> None:
    # The latest first: a signal handler that stands before another one goes before it.
    for give_up in reversed([*_duties.values()]):
        with suppress(Exception):  # no descriptor left, say: then the rest is given up all the same
            give_up()
    _duties.clear()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
