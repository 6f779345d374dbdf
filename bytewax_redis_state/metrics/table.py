"""The table of metrics: name, meaning, and where the value is found.

Invariant: both exporters give exactly these, with the labels ``flow`` and ``process``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bytewax_redis_state.recovery.flow_status import FlowStatus
from bytewax_redis_state.recovery.replicator.status import ReplicatorState

__all__ = ["LABELS", "TABLE", "Metric"]

LABELS = ("flow", "process")
"""What tells two series of a metric apart."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    :arg name: As Prometheus shows it, a counter's without ``_total``.
    :arg text: What it says.
    :arg read: Finds the value.
    :arg counts: Whether it only grows while a flow runs.
    """

    name: str
    text: str
    read: Callable[[FlowStatus], float]
    counts: bool = False


TABLE = (
    Metric(
        "bytewax_redis_state_redis_away",
        "1 while Redis takes nothing, or refuses to write.",
        lambda v: v.status.state is ReplicatorState.AWAY,
    ),
    Metric(
        "bytewax_redis_state_sources_held",
        "1 while the sources wait: for Redis, for the replicator or for room on the scratch disk.",
        lambda v: v.held,
    ),
    Metric(
        "bytewax_redis_state_lag_bytes",
        "Bytes in the outbox that Redis does not have yet.",
        lambda v: v.status.lag,
    ),
    Metric(
        "bytewax_redis_state_lag_rows",
        "Rows in the outbox that Redis does not have yet.",
        lambda v: v.status.backlog,
    ),
    Metric(
        "bytewax_redis_state_shipped_rows",
        "Rows of the outbox that Redis has taken.",
        lambda v: v.status.shipped,
        counts=True,
    ),
    Metric(
        "bytewax_redis_state_progress_epoch",
        "Epoch below which everything is in the journal: what a crash resumes from.",
        lambda v: v.status.progress,
    ),
    Metric(
        "bytewax_redis_state_folded_epoch",
        "Epoch up to which the journal is folded into the keyed state.",
        lambda v: v.status.applied,
    ),
    Metric(
        "bytewax_redis_state_replicator_silence_seconds",
        "Seconds since the replicator's last sign of life.",
        lambda v: v.status.age,
    ),
    Metric(
        "bytewax_redis_state_replicator_restarts",
        "How often the replicator died and was started again.",
        lambda v: v.restarts,
        counts=True,
    ),
    Metric(
        "bytewax_redis_state_resume_seconds",
        "Seconds that the resume took, from the claim of the lease on.",
        lambda v: v.resumed.seconds,
    ),
    Metric(
        "bytewax_redis_state_resumed_keys",
        "State keys that this process restored.",
        lambda v: sum(v.resumed.keys.values()),
    ),
    Metric(
        "bytewax_redis_state_generation",
        "Number of the start of the flow.",
        lambda v: v.resumed.generation,
    ),
)
"""All metrics, in the order in which they are shown."""
