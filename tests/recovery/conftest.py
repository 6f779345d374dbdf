"""A flow in Redis without an engine: starts, appends and folds, each by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from bytewax_redis_state.codec.delta import pack_delta
from bytewax_redis_state.codec.envelope import MSGPACK, open_envelope, seal
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import Cell, cells_of
from bytewax_redis_state.recovery.records.fold import Folder
from bytewax_redis_state.recovery.records.journal import Entry, Journal
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.start.plan import StartPlan, plan_start
from bytewax_redis_state.recovery.start.restore import Restorer
from bytewax_redis_state.recovery.start.takeover import known_or_founded, take_over
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import Client

SHARDS = 4
KEYED = StateStep("sum", "flow.sum.core", "flow.sum.core.shards", "keyed")
SOURCE = StateStep("in", "flow.in", "flow.in", "source")


@dataclass
class FlowInRedis:
    """One flow: what a coordinator and a replicator do with it."""

    client: Client
    namespace: str
    row: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = FlowKeys(self.namespace, "flow")
        self.scripts = Scripts(self.client)
        self.manifest: Manifest | None = None

    # -- starting -------------------------------------------------------------------------

    def known(self) -> Manifest:
        return known_or_founded(self.client, self.scripts, self.keys, "life", SHARDS)

    def plan(
        self,
        manifest: Manifest,
        steps: Sequence[StateStep],
        parts: Mapping[str, Sequence[str]],
        retention: timedelta | None = None,
        **settings: object,
    ) -> StartPlan:
        kept = RecoverySettings(shards=SHARDS, **settings)
        lifetimes = {} if retention is None else {KEYED.step_id: retention}
        return plan_start(manifest, steps, parts, kept, lifetimes)

    def start(
        self,
        steps: Sequence[StateStep] = (KEYED,),
        processes: int = 1,
        parts: Mapping[str, Sequence[str]] | None = None,
        **settings: object,
    ) -> Manifest:
        known = self.known()
        plan = self.plan(known, steps, parts or {}, **settings)
        ids = [f"id{i}" for i in range(processes)]
        self.manifest = take_over(self.client, self.scripts, self.keys, known, plan, ids, {})
        self.row = dict.fromkeys(range(processes), 0)
        return self.manifest

    # -- a replicator's work --------------------------------------------------------------

    def journal(self, partition: int = 0, token: Token | None = None) -> Journal:
        assert self.manifest is not None
        return Journal(
            self.client,
            self.scripts,
            self.keys,
            self.manifest.incarnation,
            self.manifest.token if token is None else token,
            partition,
        )

    def commit(
        self,
        epoch: int,
        changes: Mapping[str, bytes | None],
        *,
        step: str = "sum",
        partition: int = 0,
        deadline: int | None = None,
    ) -> None:
        """Append one epoch's changes, grouped by cell, and move progress past it."""
        cells: dict[Cell, dict[str, bytes | None]] = {}
        for key, value in changes.items():
            sealed = None if value is None else seal(key, MSGPACK, value, deadline=deadline)
            cells.setdefault(Cell(step, shard_of(key, SHARDS)), {})[key] = sealed
        row = self.row[partition]
        entries = [
            Entry(epoch, row + n, cell, pack_delta(delta))
            for n, (cell, delta) in enumerate(cells.items(), 1)
        ]
        after = row + len(entries) + 1
        self.journal(partition).append(row, after, entries, epoch + 1)
        self.row[partition] = after

    def folder(self, partition: int = 0, **who: object) -> Folder:
        assert self.manifest is not None
        client: Client = who.get("client", self.client)
        return Folder(
            client,
            Scripts(client),
            self.keys,
            str(who.get("incarnation", self.manifest.incarnation)),
            token if isinstance(token := who.get("token"), Token) else self.manifest.token,
            partition,
            cells_of(self.manifest.steps, SHARDS),
            timed=self.manifest.retention,
            offset=self.manifest.offset,
        )

    # -- looking --------------------------------------------------------------------------

    def state(self, step: str = "sum") -> dict[str, bytes]:
        found = {}
        for key in self.client.scan_iter(self.keys.state_pattern, 1000):
            at = self.keys.parse_state(key)
            if at is not None and at[0] == step:
                found[at[2]] = open_envelope(at[2], self.client.get(key)).payload
        return found

    def applied(self, shard: int, step: str = "sum") -> bytes:
        return self.keys.applied(step, shard)

    def counts(self, step: str = "sum") -> int:
        return sum(int(self.client.hget(self.applied(s, step), "count")) for s in range(SHARDS))

    def all_keys(self) -> set[bytes]:
        return {key for pattern in self.keys.patterns for key in self.client.scan_iter(pattern)}

    def dump(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.all_keys()}

    def restorer(self, **changes: object) -> Restorer:
        assert self.manifest is not None
        made: dict[str, object] = {
            "client": self.client,
            "keys": self.keys,
            "manifest": self.manifest,
            "shards": frozenset(range(SHARDS)),
            "workers": 1,
            "engine_ids": {"sum": KEYED.engine_id, "in": SOURCE.engine_id},
            "handover": Handover(),
            "progress": lambda done, total: None,
        }
        return Restorer(**(made | changes))


@pytest.fixture
def flow(client: Client, namespace: str) -> FlowInRedis:
    return FlowInRedis(client, namespace)


@pytest.fixture
def started(flow: FlowInRedis) -> FlowInRedis:
    """A flow at its first generation, with one keyed step and one process."""
    flow.start()
    return flow
