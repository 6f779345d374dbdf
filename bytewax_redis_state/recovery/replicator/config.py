"""ReplicatorConfig: all that the dataflow's process tells its replicator, as one line of JSON.

Invariant: it is plain data, so a replicator that is restarted gets the very same line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.outbox.outbox import Outbox, OutboxOwner, RenewalRecord
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.token import Token

__all__ = ["ReplicatorConfig"]


@dataclass(frozen=True)
class ReplicatorConfig:
    """What a replicator has to know.

    :arg credentials: Name of the callback that gives user and password; ``None`` where the URL
        has them. A name, because the replicator outlives the dataflow and can't ask it.
    :arg path: Where the dataflow's process finds modules: the name leads to the same callback here.
    :arg start: ID of the start, known to all its processes.
    :arg steps: Engine step ID to short name and kind.
    :arg timed: Short names of the steps that have a retention.
    :arg offset: Milliseconds added to a deadline to get the time at which Redis drops the key.
    :arg outbox: Path of the outbox file.
    :arg status: Path of the status board.
    :arg margin: How many seconds the outbox keeps rows that Redis has.
    :arg durability: Which rows count as acknowledged, as the user writes it.
    :arg lease: The lease as the dataflow's process last wrote it.
    :arg manifest: Fields of the manifest that the flow started from.
    :arg outbox_owner: Incarnation and generation that the outbox file is stamped with.
    :arg failover_possible: Whether a failover may take back writes that Redis has acknowledged, as
        of the start.
    :arg embedded: Directory of the embedded server; ``None`` where the user runs Redis.
    :arg snapshot_request: Number of the request for a snapshot of all that the shards hold: the
        generation that a renewal has made; 0 where there was none.
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
    outbox_owner: Sequence[Any]
    failover_possible: bool = False
    embedded: str | None = None
    snapshot_request: int = 0

    def renewed(self, record: RenewalRecord) -> ReplicatorConfig:
        """Give the config of the flow's life that a renewal has begun.

        :arg record: Of the renewal.
        """
        return replace(
            self,
            incarnation=record.incarnation,
            generation=record.generation,
            resume_epoch=record.epoch,
            snapshot_request=record.generation,
        )

    @property
    def token(self) -> Token:
        """The fencing token of the replicator's writes."""
        return Token(self.generation, self.start)

    @property
    def first_manifest(self) -> Manifest:
        """The manifest that the flow started from."""
        fields = {"incarnation": self.incarnation, "generation": str(self.token), "time": "0"}
        fields.update(self.manifest)
        read = {key.encode(): text.encode() for key, text in fields.items()}
        manifest = Manifest.from_fields(self.keys, read)
        assert manifest is not None
        return manifest

    def open_outbox(self) -> Outbox:
        """Open the outbox of the replicator's partition.

        :raises ReplicatorError: If it belongs to another execution.
        :raises ScratchError: If it can't be read.
        """
        incarnation, generation = self.outbox_owner
        owner = OutboxOwner(incarnation, generation, self.partition)
        flat = frozenset(step for step, (_, kind) in self.steps.items() if kind != "keyed")
        return Outbox(Path(self.outbox), owner, flat)

    def to_json(self) -> str:
        """Give the config as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> ReplicatorConfig:
        """Read a line of :meth:`to_json`."""
        return cls(**json.loads(line))

    @property
    def redis(self) -> RedisConfig:
        """The settings of the connections."""
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
