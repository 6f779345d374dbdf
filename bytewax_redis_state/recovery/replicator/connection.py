"""ReplicatorConnection: a named connection of the replicator to Redis.

Invariant: each thread of the replicator has one of its own, because ``WAIT`` and ``WAITAOF`` wait
for the last write of their own connection, and a fold must not hold up an append.
"""

from __future__ import annotations

import redis

from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect, flow_connection_name

__all__ = ["ReplicatorConnection"]


class ReplicatorConnection:
    """A client, its scripts, and the address that errors name.

    :arg config: Of the replicator.
    :raises ServerUnavailableError: If Redis does not answer.
    """

    def __init__(self, config: ReplicatorConfig) -> None:
        self._config = config
        redis_config = config.redis
        self.address = redis_config.address
        name = flow_connection_name(config.namespace, config.flow_id)
        self.client: redis.Redis = connect(redis_config, name)
        self.scripts = Scripts(self.client)

    @property
    def store(self) -> FencedStore:
        """The flow in Redis, as the replicator may write it."""
        config = self._config
        return FencedStore(self.client, self.scripts, config.keys, config.incarnation, config.token)

    def journal(self) -> Journal:
        """Give the journal of the replicator's partition."""
        return Journal(self.store, self._config.partition)
