"""The members of a cluster, watched from its start until its engines have met.

Invariant: a process whose engine waits for one that has died is ended: its lease would keep the
dead one from joining again.
"""

from __future__ import annotations

import time

import redis

from bytewax_redis_state.errors import ReplicatorError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.lease import read_leases
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig, ReplicatorConnection
from bytewax_redis_state.server.translation import translated

__all__ = ["MemberWatch"]

_MEMBERS_SECONDS = 0.5
_MEMBERS_PATIENCE = 3.0


def _missing_members(client: redis.Redis, keys: FlowKeys, token: Token) -> list[int]:
    """Give the processes of a start that no longer hold their leases.

    :returns: Their numbers; none where the manifest is already another start's.
    """
    manifest = read_manifest(client, keys)
    if manifest is None or manifest.token != token:
        return []
    held = read_leases(client, keys, range(len(manifest.processes)))
    return [
        process
        for process, member in enumerate(manifest.processes)
        if process not in held or held[process].id != member
    ]


class MemberWatch:
    """Ends a start of which another process died before the engines met.

    An engine that waits for another process's engine waits for good, and keeps that process from
    joining again. Once an epoch is committed the engines watch each other.

    :arg setup: Of the replicator.
    """

    def __init__(self, setup: ReplicatorConfig) -> None:
        self._setup = setup
        self._asked = 0.0
        self._missed: float | None = None

    def look(self, line: ReplicatorConnection) -> None:
        """Look at the leases, now and then.

        :raises ReplicatorError: If one has been gone, or another's, for a while.
        """
        now = time.monotonic()
        if self._setup.partitions == 1 or now < self._asked + _MEMBERS_SECONDS:
            return
        self._asked = now
        with translated(line.address):
            missing = _missing_members(line.client, self._setup.keys, self._setup.token)
        if not missing:
            self._missed = None
            return
        self._missed = self._missed or now
        if now > self._missed + _MEMBERS_PATIENCE:
            names = ", ".join(map(str, missing))
            raise ReplicatorError(
                f"process {names} of the flow {self._setup.flow_id!r} ended before the flow ran",
                "start all processes of the cluster again",
            )
