"""A flow in Redis without an engine: starts, appends and folds, each by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.delta import pack_delta
from bytewax_redis_state.codec.envelope import MSGPACK, open_envelope, seal
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import Cell, cells_of
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.fold import JournalFold
from bytewax_redis_state.recovery.records.journal import Entry, Journal
from bytewax_redis_state.recovery.records.lease import Lease, this_owner
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.reporter import LogReporter
from bytewax_redis_state.recovery.start.join_barrier import ClusterShape
from bytewax_redis_state.recovery.start.plan import StartPlan, plan_start
from bytewax_redis_state.recovery.start.process_start import FlowSteps, ProcessStart, SessionParts
from bytewax_redis_state.recovery.start.restore import Restorer
from bytewax_redis_state.recovery.start.steps import start_flow
from bytewax_redis_state.recovery.start.takeover import known_or_founded
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import Client

SHARDS = 4
KEYED = StateStep("sum", "flow.sum.core", "flow.sum.core.shards", "keyed")
SOURCE = StateStep("in", "flow.in", "flow.in", "source")
SESSION = SessionParts(
    LogReporter(),
    Codec(),
    Handover(),
    scratch=None,
    lease_holder=None,
    spawn_replicator=None,
    require_running=None,
    start_replicator=None,
)


class Coordinator(ProcessStart):
    """The coordinator's side of a start, without an engine; of a cluster that is there already.

    The steps are those of every start, in their order. Those that are not the coordinator's alone
    do nothing here.
    """

    members: Sequence[Lease] = ()

    def require_fit(self) -> None:
        pass

    def claim_lease(self) -> None:
        self._claimed = self.members[0]

    def meet_members(self) -> list[Lease]:
        return list(self.members)

    def restore(self, _manifest: Manifest) -> None:
        pass

    def make_outbox(self, _manifest: Manifest, _restored: None) -> None:
        pass

    def start_replicator(self, _manifest: Manifest) -> None:
        pass


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
        retention: timedelta | None = None,
        **settings: object,
    ) -> Manifest:
        self.known()
        lifetimes = {} if retention is None else {KEYED.step_id: retention}
        start = Coordinator(
            self.client,
            self.keys,
            RecoverySettings(shards=SHARDS, **settings),
            ClusterShape(0, processes),
            FlowSteps(steps, {}, lifetimes),
            SESSION,
        )
        listed = {name: list(listed) for name, listed in (parts or {}).items()}
        start.members = [
            replace(this_owner(number, "", {} if number else listed), id=f"id{number}")
            for number in range(processes)
        ]
        self.manifest = start_flow(start)
        self.row = dict.fromkeys(range(processes), 0)
        return self.manifest

    # -- a replicator's work --------------------------------------------------------------

    @property
    def store(self) -> FencedStore:
        assert self.manifest is not None
        return self.store_of(self.manifest)

    def store_of(self, manifest: Manifest) -> FencedStore:
        return FencedStore(
            self.client, self.scripts, self.keys, manifest.incarnation, manifest.token
        )

    def journal(self, partition: int = 0, token: Token | None = None) -> Journal:
        return Journal(self.store if token is None else self.store.under(token), partition)

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

    def journal_fold(self, partition: int = 0, **changes: object) -> JournalFold:
        """What folds a partition's journal.

        :arg changes: Of the store, as ``replace`` takes them.
        """
        assert self.manifest is not None
        if isinstance(client := changes.get("client"), Client):
            changes["scripts"] = Scripts(client)
        return JournalFold(
            replace(self.store, **changes),
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
