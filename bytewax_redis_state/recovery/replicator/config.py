"""The setup of a replicator: what its parent tells it, and the lines to Redis made from that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.outbox.outbox import Outbox, Renewal, Stamp
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect

__all__ = ["ReplicatorConfig", "ReplicatorConnection"]


@dataclass(frozen=True)
class ReplicatorConfig:
    """All that a replicator needs to know; goes to it as one line of JSON.

    :arg start: ID of the start, known to all its processes.
    :arg credentials: Name of what gives user and password, ``None`` where the URL does.
    :arg path: Where the parent finds modules: the name leads to the same thing here.
    :arg steps: Engine step ID to short name and kind.
    :arg timed: Short names of the steps that have a retention.
    :arg offset: What is added to a deadline to get the time at which Redis drops the key, in ms.
    :arg margin: How many seconds the outbox keeps rows that Redis has.
    :arg durability: What counts as acknowledged, as the user writes it.
    :arg lease: As the parent last wrote it.
    :arg manifest: Fields of the manifest that the flow started from.
    :arg stamp: Incarnation and generation that the outbox is stamped with.
    :arg guarded: Whether a failover may take back what Redis has acknowledged, as of the start.
    :arg call: Number of the call for all that the shards hold: the generation that the flow was
        founded anew with, 0 where it was not.
    """

    url: str
    credentials: str | None
    path: Sequence[str]
    connect_timeout: float
    script_timeout: float
    namespace: str
    flow_id: str
    incarnation: str
    generation: int
    start: str
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
    margin: float
    durability: str
    lease: str
    manifest: Mapping[str, str]
    stamp: Sequence[Any]
    guarded: bool = False
    call: int = 0

    def renewed(self, renewal: Renewal) -> ReplicatorConfig:
        """Give the setup of a flow that was founded anew while it ran."""
        return replace(
            self,
            incarnation=renewal.incarnation,
            generation=renewal.generation,
            resume_epoch=renewal.epoch,
            call=renewal.generation,
        )

    @property
    def token(self) -> Token:
        """Whose writes these are."""
        return Token(self.generation, self.start)

    @property
    def known(self) -> Manifest:
        """The manifest that the flow started from."""
        fields = {"incarnation": self.incarnation, "generation": str(self.token), "time": "0"}
        fields.update(self.manifest)
        read = {key.encode(): text.encode() for key, text in fields.items()}
        manifest = Manifest.from_fields(read)
        assert manifest is not None
        return manifest

    def open_outbox(self) -> Outbox:
        """Open the outbox of the replicator's partition.

        :raises ReplicatorError: If it belongs to another execution.
        """
        incarnation, generation = self.stamp
        stamp = Stamp(incarnation, generation, self.partition)
        flat = frozenset(step for step, (_, kind) in self.steps.items() if kind != "keyed")
        return Outbox(Path(self.outbox), stamp, flat)

    def to_json(self) -> str:
        """Give the line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> ReplicatorConfig:
        """Read the line."""
        return cls(**json.loads(line))

    @property
    def redis(self) -> RedisConfig:
        """Where Redis is."""
        return RedisConfig(
            url=self.url,
            credentials=self.credentials,
            connect_timeout=timedelta(seconds=self.connect_timeout),
            read_timeout=timedelta(seconds=self.script_timeout),
            write_timeout=timedelta(seconds=self.script_timeout),
        )

    @property
    def keys(self) -> FlowKeys:
        """The flow's keyspace."""
        return FlowKeys(self.namespace, self.flow_id)


class ReplicatorConnection:
    """One connection to Redis, made when it is first needed, with our errors at its edge."""

    def __init__(self, setup: ReplicatorConfig) -> None:
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
            setup.token,
            setup.partition,
        )
