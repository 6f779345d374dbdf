"""MemberWatch: looks at the leases of a cluster's processes until their engines have met.

An engine that waits for the engine of another process waits for ever, and the lease of its process
keeps the other process from joining again. Invariant: a process whose engine waits for a process
that has died is ended.
"""

from __future__ import annotations

import time

import redis

from bytewax_redis_state.errors import ReplicatorError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.lease import read_leases
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.server.translation import translated

__all__ = ["MemberWatch"]

_LOOK_SECONDS = 0.5
_MISSING_SECONDS = 3.0  # a lease may be written late


def _missing_members(client: redis.Redis, keys: FlowKeys, token: Token) -> list[int]:
    """Find the processes of a start that no longer hold their leases.

    :returns: Their numbers; none where the manifest is another start's by now.
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

    Once an epoch is committed the engines watch each other.

    :arg config: Of the replicator.
    :arg connection: To read the leases with.
    """

    def __init__(self, config: ReplicatorConfig, connection: ReplicatorConnection) -> None:
        self._config = config
        self._connection = connection
        self._looked = 0.0
        self._missing_since: float | None = None

    def look(self) -> None:
        """Look at the leases, twice a second at most.

        :raises ReplicatorError: If a process has not held its lease for a while.
        """
        now = time.monotonic()
        if self._config.partitions == 1 or now < self._looked + _LOOK_SECONDS:
            return
        self._looked = now
        with translated(self._connection.address):
            missing = _missing_members(
                self._connection.client, self._config.keys, self._config.token
            )
        if not missing:
            self._missing_since = None
            return
        self._missing_since = self._missing_since or now
        if now > self._missing_since + _MISSING_SECONDS:
            names = ", ".join(map(str, missing))
            raise ReplicatorError(
                f"process {names} of the flow {self._config.flow_id!r} ended before the flow ran",
                "start all processes of the cluster again",
            )
