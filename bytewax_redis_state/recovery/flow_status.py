"""FlowStatus: how the flows of this process do, for metrics.

A session registers when its replicator works, and is removed when it ends.

Invariant: reading a status sends nothing and waits for nothing: it looks at memory that the
replicator writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from bytewax_redis_state.recovery.replicator.status import Status
from bytewax_redis_state.recovery.reporter import Resumed

__all__ = ["FlowStatus", "flow_statuses", "register"]


@dataclass(frozen=True)
class FlowStatus:
    """Say how one process of a flow does.

    :arg flow: The flow's ID.
    :arg process: Number of the process in its cluster.
    :arg status: What its replicator shows.
    :arg held: Whether the gate holds the sources back.
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


def register(source: Callable[[], FlowStatus]) -> Callable[[], None]:
    """Add a session to those that :func:`flow_statuses` asks.

    :arg source: Gives the session's status; called from any thread.
    :returns: A function that removes the session again.
    """
    with _lock:
        _sources.append(source)

    def remove() -> None:
        with _lock:
            _sources.remove(source)

    return remove


def flow_statuses() -> list[FlowStatus]:
    """Give the status of each flow of this process whose session is running."""
    with _lock:
        sources = list(_sources)
    return [source() for source in sources]
