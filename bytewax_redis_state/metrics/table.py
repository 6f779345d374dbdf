"""The table of metrics: name, description, and how the value is read.

Invariant: both exporters export exactly these metrics, with the labels ``flow`` and ``process``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bytewax_redis_state.recovery.flow_status import FlowStatus
from bytewax_redis_state.recovery.replicator.status import ReplicatorState

__all__ = ["LABELS", "TABLE", "Metric"]

LABELS = ("flow", "process")
"""The labels of every metric."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    :arg name: The name in Prometheus; a counter's without ``_total``.
    :arg description: What the value means.
    :arg read: Reads the value.
    :arg is_counter: Whether the value only grows while a flow runs.
    """

    name: str
    description: str
    read: Callable[[FlowStatus], float]
    is_counter: bool = False


TABLE = (
    Metric(
        "bytewax_redis_state_redis_away",
        "1 while Redis can't be reached, or refuses writes.",
        lambda flow: flow.status.state is ReplicatorState.AWAY,
    ),
    Metric(
        "bytewax_redis_state_sources_held",
        "1 while the sources wait: for Redis, for the replicator or for room on the scratch disk.",
        lambda flow: flow.held,
    ),
    Metric(
        "bytewax_redis_state_lag_bytes",
        "Bytes of rows in the outbox that are not in Redis yet.",
        lambda flow: flow.status.lag,
    ),
    Metric(
        "bytewax_redis_state_lag_rows",
        "Rows in the outbox that are not in Redis yet.",
        lambda flow: flow.status.backlog,
    ),
    Metric(
        "bytewax_redis_state_shipped_rows",
        "Rows that the replicator has shipped to Redis.",
        lambda flow: flow.status.shipped,
        is_counter=True,
    ),
    Metric(
        "bytewax_redis_state_progress_epoch",
        "Epoch below which everything is in the journal; a crashed flow resumes from it.",
        lambda flow: flow.status.progress,
    ),
    Metric(
        "bytewax_redis_state_folded_epoch",
        "Epoch up to which the journal is folded into the keyed state.",
        lambda flow: flow.status.applied,
    ),
    Metric(
        "bytewax_redis_state_replicator_silence_seconds",
        "Seconds since the replicator's last heartbeat.",
        lambda flow: flow.status.age,
    ),
    Metric(
        "bytewax_redis_state_replicator_restarts",
        "How often the replicator died and was started again.",
        lambda flow: flow.restarts,
        is_counter=True,
    ),
    Metric(
        "bytewax_redis_state_resume_seconds",
        "Seconds that the resume took, counted from the claim of the lease.",
        lambda flow: flow.resumed.seconds,
    ),
    Metric(
        "bytewax_redis_state_resumed_keys",
        "State keys that this process has restored.",
        lambda flow: sum(flow.resumed.keys.values()),
    ),
    Metric(
        "bytewax_redis_state_generation",
        "Number of the flow's generation; every start has the next one.",
        lambda flow: flow.resumed.generation,
    ),
)
"""All metrics, in the order in which they are shown."""
