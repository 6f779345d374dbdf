"""The setup of a replicator: what its parent tells it, and the lines to Redis made from that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

import redis

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.journal import Journal
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect

__all__ = ["Line", "Setup"]


@dataclass(frozen=True)
class Setup:
    """All that a replicator needs to know; goes to it as one line of JSON.

    :arg steps: Engine step ID to short name and kind.
    :arg timed: Short names of the steps that have a retention.
    :arg offset: What is added to a deadline to get the time at which Redis drops the key, in ms.
    :arg lease: As the parent last wrote it.
    """

    url: str
    connect_timeout: float
    script_timeout: float
    namespace: str
    flow_id: str
    incarnation: str
    generation: int
    partition: int
    partitions: int
    resume_epoch: int
    shards: int
    steps: Mapping[str, Sequence[str]]
    timed: Sequence[str]
    offset: int
    outbox: str
    status: str
    checkpoint_interval: float
    drain_timeout: float
    lease: str

    def to_json(self) -> str:
        """Give the line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Setup:
        """Read the line."""
        return cls(**json.loads(line))

    @property
    def redis(self) -> RedisConfig:
        """Where Redis is."""
        return RedisConfig(
            url=self.url,
            connect_timeout=timedelta(seconds=self.connect_timeout),
            read_timeout=timedelta(seconds=self.script_timeout),
            write_timeout=timedelta(seconds=self.script_timeout),
        )

    @property
    def keys(self) -> FlowKeys:
        """The flow's keyspace."""
        return FlowKeys(self.namespace, self.flow_id)


class Line:
    """One connection to Redis, made when it is first needed, with our errors at its edge."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._config = setup.redis
        self.address = self._config.address
        self.client: redis.Redis = connect(self._config)
        self.scripts = Scripts(self.client)

    def journal(self) -> Journal:
        """The journal of the replicator's partition."""
        setup = self._setup
        return Journal(
            self.client,
            self.scripts,
            setup.keys,
            setup.incarnation,
            setup.generation,
            setup.partition,
        )
