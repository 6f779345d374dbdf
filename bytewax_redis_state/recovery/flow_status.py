"""FlowStatus: what a running flow says of its state, for whoever measures.

A session enters itself when its replicator works and is out again when it ends. Invariant: reading
asks nobody and waits for nothing: it looks at memory that the replicator writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from bytewax_redis_state.recovery.replicator.status import Status
from bytewax_redis_state.recovery.reporter import Resumed

__all__ = ["FlowStatus", "enter", "vitals"]


@dataclass(frozen=True)
class FlowStatus:
    """How one process of a flow does.

    :arg flow: The flow's ID.
    :arg process: Number of the process in its cluster.
    :arg status: What its replicator shows.
    :arg held: Whether the sources wait.
    :arg restarts: How often the replicator had to be started again.
    :arg resumed: What the run went on from.
    """

    flow: str
    process: int
    status: Status
    held: bool
    restarts: int
    resumed: Resumed


_lock = Lock()
_sources: list[Callable[[], FlowStatus]] = []


def enter(source: Callable[[], FlowStatus]) -> Callable[[], None]:
    """Enter a session.

    :arg source: Tells its vitals; from any thread.
    :returns: What takes it out again.
    """
    with _lock:
        _sources.append(source)

    def leave() -> None:
        with _lock:
            _sources.remove(source)

    return leave


def vitals() -> list[FlowStatus]:
    """Tell how the flows of this process do, sessions that are running only."""
    with _lock:
        sources = list(_sources)
    return [source() for source in sources]
