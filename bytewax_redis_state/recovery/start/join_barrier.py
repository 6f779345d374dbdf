"""The join barrier: all processes of one execution meet in Redis before any of them starts.

Process 0 coordinates. The others claim their lease once process 0 has claimed its own, so that of
two clusters started at once only one gets in; then they wait for a manifest that lists their ID.

Invariant: a process starts only from a manifest that lists its own ID, which is new with each
start; so the restart of one process is a new generation for all.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import redis

from bytewax_redis_state.errors import FencedError, FlowRunningError, JoinTimeoutError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.lease import Lease, read_leases
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest

__all__ = [
    "ClusterShape",
    "taken_over",
    "wait_for_coordinator",
    "wait_for_manifest",
    "wait_for_members",
]

_POLL_SECONDS = 0.05
_EQUAL = "equal flows, -w, -a and --no-fast-paths"


@dataclass(frozen=True)
class ClusterShape:
    """Which process this is, of how many.

    :arg process_id: Number of this process.
    :arg process_count: Number of processes.
    :arg worker_count: Workers per process.
    :arg addresses: As given to Bytewax; tells clusters apart.
    """

    process_id: int = 0
    process_count: int = 1
    worker_count: int = 1
    addresses: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Workers in the whole cluster."""
        return self.process_count * self.worker_count

    def digest(self, flow_shape: str) -> str:
        """Tell clusters, and flows of different shape, apart."""
        text = repr((self.process_count, self.worker_count, self.addresses, flow_shape))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def taken_over(client: redis.Redis, keys: FlowKeys, own: Lease) -> FencedError | None:
    """Tell a start that failed whether it did because another one took the flow over.

    :arg own: The lease that the start claimed.
    :returns: An error that says who holds it now; ``None`` where it is still its own, or free.
    """
    holder = read_leases(client, keys, range(own.process, own.process + 1)).get(own.process)
    if holder is None or holder.id == own.id:
        return None
    return FencedError(f"the flow was taken over by {holder.whereabouts}")


def wait_for_coordinator(
    client: redis.Redis,
    keys: FlowKeys,
    cluster: str,
    timeout: timedelta,
    say: Callable[[str], None],
) -> None:
    """Wait until process 0 of this cluster is joining.

    :arg cluster: Digest of the cluster that this process belongs to.
    :raises FlowRunningError: If another cluster's process 0 is running at the end.
    :raises JoinTimeoutError: If there is none at the end.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    said = False
    while True:
        lease = read_leases(client, keys, range(1)).get(0)
        if lease is not None and lease.phase == "joining" and lease.cluster == cluster:
            return
        if time.monotonic() > deadline:
            if lease is not None:
                raise FlowRunningError(
                    f"the flow {keys.flow_id!r} is already running: {lease.whereabouts}",
                    f"stop it first; processes of one cluster need {_EQUAL}",
                )
            raise JoinTimeoutError(
                f"process 0 of the flow {keys.flow_id!r} has not joined in {timeout}",
                f"start all processes of the cluster, with {_EQUAL}",
            )
        if not said:
            say("waiting for process 0 to join")
            said = True
        time.sleep(_POLL_SECONDS)


def wait_for_members(
    client: redis.Redis,
    keys: FlowKeys,
    own: Lease,
    process_count: int,
    timeout: timedelta,
    say: Callable[[str], None],
) -> list[Lease]:
    """Wait until every process of this cluster is joining; the coordinator's side.

    :arg own: Lease of process 0.
    :returns: Leases of all processes in their order.
    :raises JoinTimeoutError: If one never comes; says which.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    said: set[int] = set()
    while True:
        found = read_leases(client, keys, range(1, process_count)) if process_count > 1 else {}
        joined = {
            i: lease
            for i, lease in found.items()
            if lease.phase == "joining"
            and lease.cluster == own.cluster
            and not lease.owner_is_dead  # killed while it joined, or soon after
        }
        missing = set(range(1, process_count)) - joined.keys()
        if not missing:
            return [own, *(joined[i] for i in sorted(joined))]
        if time.monotonic() > deadline:
            names = ", ".join(map(str, sorted(missing)))
            raise JoinTimeoutError(
                f"process {names} of the flow {keys.flow_id!r} has not joined in {timeout}",
                f"start all processes of the cluster, with {_EQUAL}",
            )
        if missing != said:
            say(f"waiting for process {', '.join(map(str, sorted(missing)))} to join")
            said = missing
        time.sleep(_POLL_SECONDS)


def wait_for_manifest(
    client: redis.Redis, keys: FlowKeys, own: Lease, timeout: timedelta
) -> Manifest:
    """Wait for a manifest that lists this process; the side of all but the coordinator.

    :raises JoinTimeoutError: If it never comes.
    """
    waited_since = time.monotonic()
    while True:
        manifest = read_manifest(client, keys)
        if manifest is not None and own.id in manifest.processes:
            return manifest
        coordinator = read_leases(client, keys, range(1)).get(0)
        # Its lease bounds the wait: one that folds for long renews it, a dead one does not.
        if coordinator is not None and coordinator.phase == "joining":
            waited_since = time.monotonic()
        if time.monotonic() > waited_since + timeout.total_seconds():
            raise JoinTimeoutError(
                f"process 0 of the flow {keys.flow_id!r} started no generation with this process",
                "read the output of process 0",
            )
        time.sleep(_POLL_SECONDS)
