"""The steps of a start that each process of a cluster makes for itself.

The order of the steps, and what is true after each, stand in ``steps.py``. Invariant: what can be
refused is refused before anything is written; and the outbox that comes out holds the whole state
before the manifest's resume epoch, each cell once in the cluster.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import redis
from bytewax.recovery import init_db_dir

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.errors import (
    ConfigError,
    FencedError,
    JoinTimeoutError,
    StateLostError,
)
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.outbox.outbox import OutboxOwner, part_file, prepare
from bytewax_redis_state.recovery.outbox.scratch import Scratch
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.lease import Lease, LeaseHolder, claim, this_owner
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest, read_pickled
from bytewax_redis_state.recovery.reporter import Reporter, Resumed
from bytewax_redis_state.recovery.start.expiry import (
    count_out_expired,
    expired_in_words,
    expired_keys,
    extend_expiries,
    refuse_expired,
)
from bytewax_redis_state.recovery.start.join_barrier import (
    ClusterShape,
    taken_over,
    wait_for_coordinator,
    wait_for_manifest,
    wait_for_members,
)
from bytewax_redis_state.recovery.start.plan import StartPlan, plan_start
from bytewax_redis_state.recovery.start.reseal import reseal_outdated
from bytewax_redis_state.recovery.start.restore import Restorer
from bytewax_redis_state.recovery.start.takeover import (
    Takeover,
    begin_takeover,
    known_or_founded,
    require_partitions,
)
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import server_time
from bytewax_redis_state.server.probe import probe_all, require_durability, require_fit
from bytewax_redis_state.server.replicas import failover_possible

__all__ = ["FlowSteps", "ProcessStart", "SessionParts"]


@dataclass(frozen=True)
class FlowSteps:
    """What a start needs to know of the user's flow.

    :arg steps: Steps of the flow that bear state.
    :arg parts: Natural short name of each source and sink to the partitions it lists here.
    :arg lifetimes: Full ID of each step whose idle keys end, to how long they are kept.
    """

    steps: Sequence[StateStep]
    parts: Mapping[str, list[str]]
    lifetimes: Mapping[str, timedelta]


@dataclass(frozen=True)
class SessionParts:
    """What a start needs of the session that it is made for.

    :arg reporter: Gets lines, warnings and progress.
    :arg codec: Of the flow.
    :arg handover: Where the states of keyed steps wait for the engine.
    :arg scratch: The folder in which the outbox is made.
    :arg lease_holder: Makes the thread that renews a lease; the session gives the lease back.
    :arg spawn_replicator: Makes a replicator's process come up; it waits for its config.
    :arg require_running: Raises what has stopped the session meanwhile.
    :arg start_replicator: Gives that process its config, and returns when it ships.
    """

    reporter: Reporter
    codec: Codec
    handover: Handover
    scratch: Scratch
    lease_holder: Callable[[Scripts, Lease], LeaseHolder]
    spawn_replicator: Callable[[], None]
    require_running: Callable[[], None]
    start_replicator: Callable[[Manifest], None]


class ProcessStart:
    """The steps of a start that one process makes, one method each, in the order of the start.

    :arg client: Of the Redis that holds the flow.
    :arg keys: Of the flow.
    :arg settings: Drops, renames, timeouts, the number of shards and the answer to expired keys.
    :arg shape: Which process this is, of how many.
    :arg flow: The user's.
    :arg session: For which the start is made.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: FlowKeys,
        settings: RecoverySettings,
        shape: ClusterShape,
        flow: FlowSteps,
        session: SessionParts,
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._keys = keys
        self._settings = settings
        self._shape = shape
        self._flow = flow
        self._session = session
        self._reporter = session.reporter
        self._claimed: Lease | None = None
        self._claimed_at = 0.0
        self.resumed = Resumed(epoch=1, keys={}, seconds=0.0, generation=0)

    @property
    def coordinates(self) -> bool:
        """Whether this process starts the generation for all."""
        return self._shape.process_id == 0

    @property
    def _lease(self) -> Lease:
        assert self._claimed is not None, "a start claims its lease before it uses it"
        return self._claimed

    def require_fit(self) -> None:
        """Refuse what can be refused before anything is written.

        :raises StateError: If the servers, or what Redis holds of the flow, do not fit.
        """
        for info in probe_all(self._client):
            for warning in require_fit(info):
                self._reporter.warn(warning)
            require_durability(info, Durability.parse(self._settings.durability))
        manifest = read_manifest(self._client, self._keys)
        if manifest is None:
            return
        manifest.require_whole(self._keys)
        plan = self._planned(manifest, self._flow.parts)
        if self._settings.on_expired == "fail" and self.coordinates:
            refuse_expired(expired_keys(self._client, self._keys, manifest))
        if self._shape.process_count == 1:  # the others' partitions are not known yet
            require_partitions(self._client, self._keys, plan, manifest.shards)

    def _planned(self, manifest: Manifest, parts: Mapping[str, Sequence[str]]) -> StartPlan:
        flow = self._flow
        return plan_start(manifest, flow.steps, parts, self._settings, flow.lifetimes)

    def claim_lease(self) -> None:
        """Claim the lease of this process, once the coordinator of its cluster has claimed its own.

        :raises FlowRunningError: If a live execution holds it.
        :raises JoinTimeoutError: If the coordinator does not come.
        """
        # A fast path's shards take their items in another form.
        shape = ([step.step_id for step in self._flow.steps], self._settings.fast_paths)
        cluster = self._shape.digest(repr(shape))
        lease = this_owner(self._shape.process_id, cluster, self._flow.parts)
        say = self._reporter.say
        self._claimed_at = time.monotonic()
        if not self.coordinates:
            timeout = self._settings.join_timeout
            wait_for_coordinator(self._client, self._keys, cluster, timeout, say)
        # The session knows of the lease before it is claimed: an interrupt in between would leave
        # the lease to expire.
        holder = self._session.lease_holder(self._scripts, lease)
        claim(self._scripts, self._keys, lease, take_over=self._settings.take_over, say=say)
        self._claimed = lease
        holder.start()
        # The process takes as long to come up as a hundred thousand keys take to be read.
        self._session.spawn_replicator()

    def meet_members(self) -> list[Lease]:
        """Wait until every process of the cluster is joining; the coordinator's side.

        :returns: Their leases in their order.
        :raises JoinTimeoutError: If one does not come.
        """
        return wait_for_members(
            self._client,
            self._keys,
            self._lease,
            self._shape.process_count,
            self._settings.join_timeout,
            self._reporter.say,
        )

    def plan(self, members: Sequence[Lease]) -> tuple[Manifest, StartPlan]:
        """Fit the flow of all processes to the manifest, which is founded where there is none.

        :arg members: Leases of all processes.
        :returns: The manifest, and the plan that was made from it.
        :raises StateError: If the flow does not fit what Redis holds of it.
        """
        # A second read and a second plan: while this process waited for its lease and for the
        # others, another start may have written a manifest; and the others list partitions, too.
        manifest = known_or_founded(
            self._client, self._scripts, self._keys, os.urandom(16).hex(), self._settings.shards
        )
        # A start that was paused until here would have read its successor's manifest, and would
        # take that one over. One that is paused from here on has an older manifest, which is
        # compared after the bump.
        successor = taken_over(self._client, self._keys, self._lease)
        if successor is not None:
            raise successor
        plan = self._planned(manifest, _parts_of(members))
        require_partitions(self._client, self._keys, plan, manifest.shards)
        return manifest, plan

    def bump_generation(
        self, known: Manifest, plan: StartPlan, members: Sequence[Lease]
    ) -> Takeover:
        """Take the next generation of the flow.

        :arg known: The manifest that the plan was made from.
        :returns: The steps of the coordinator that follow.
        :raises FencedError: If another start has taken a generation at the same moment.
        """
        ids = [member.id for member in members]
        return begin_takeover(
            self._client, self._scripts, self._keys, known, plan, ids, _versions()
        )

    def find_manifest(self) -> Manifest:
        """Wait for a manifest that lists this process; the side of all but the coordinator.

        :raises JoinTimeoutError: If it does not come.
        """
        timeout = self._settings.join_timeout
        return wait_for_manifest(self._client, self._keys, self._lease, timeout)

    def restore(self, manifest: Manifest) -> Restorer:
        """Read the shards that the workers of this process will own, and check that they are whole.

        Values that other keys protect than the flow writes with are written again.

        :returns: What was read.
        :raises StateLostError: If something is missing.
        :raises StateExpiredError: If keys have expired and the settings say to fail.
        :raises DecodeError: If a value needs a secret key that is not there, or is forged.
        """
        self._require_own(manifest)
        shape = self._shape
        mine = frozenset(
            shard
            for shard in range(manifest.shards)
            if shard % shape.workers // shape.worker_count == shape.process_id
        )
        engine_ids = {name: engine for engine, (name, _) in self.engine_steps(manifest).items()}
        restorer = Restorer(
            self._client,
            self._keys,
            manifest,
            mine,
            shape.workers,
            engine_ids,
            self._session.handover,
            self._reporter.progress,
        )
        keys = restorer.read()
        if self._session.codec.pickled is not None:
            self._session.codec.pickled.update(read_pickled(self._client, self._keys))
        store = FencedStore(
            self._client, self._scripts, self._keys, manifest.incarnation, manifest.token
        )
        expired = self._account_for_expired(store, manifest, restorer)
        resealed = reseal_outdated(store, restorer.cells, self._session.codec)
        if resealed:
            self._reporter.say(f"{resealed:,} values were written again with the current keys")
        self.resumed = Resumed(manifest.resume_epoch, keys, 0.0, manifest.generation, expired)
        return restorer

    def _require_own(self, manifest: Manifest) -> None:
        self._session.require_running()
        number = self._shape.process_id
        if manifest.processes[number] != self._lease.id:
            raise ConfigError(
                f"another process of the cluster also has the number {number}",
                "give each process of the cluster its own -i",
            )

    def _account_for_expired(
        self, store: FencedStore, manifest: Manifest, restorer: Restorer
    ) -> dict[str, int]:
        """Take expired keys out of the counts, and let the others expire later."""
        expired: Counter[str] = Counter()
        for cell, gone in restorer.expired.items():
            expired[cell.step] += sum(gone.values())
        if self._settings.on_expired == "fail":
            refuse_expired(expired)
        if expired:
            self._reporter.warn(
                f"{expired_in_words(expired)} had expired in Redis while the flow stood still for "
                "longer than the downtime allowance; each counts as new when it comes back"
            )
        extended = set()
        for cell, states in restorer.overdue():
            extend_expiries(store, manifest.offset, cell, states)
            extended.add(cell)
        if expired or extended:
            count_out_expired(store, manifest.offset, restorer.expired, frozenset(extended))
        return dict(expired)

    def make_outbox(self, manifest: Manifest, restorer: Restorer) -> None:
        """Make the recovery partition of this process, with what was restored in it."""
        scratch = self._session.scratch
        count, own = self._shape.process_count, self._shape.process_id
        init_db_dir(str(scratch.folder), count)  # type: ignore[no-untyped-call]
        for partition in range(count):
            if partition != own:  # the other processes make those
                for file in scratch.folder.glob(f"{part_file(Path(), partition).name}*"):
                    file.unlink()
        prepare(
            part_file(scratch.folder, own),
            OutboxOwner(manifest.incarnation, manifest.generation, own),
            execution=manifest.generation if own == 0 else None,
            resume_epoch=manifest.resume_epoch,
            restored=restorer.rows(),
            keep_last=frozenset(s.engine_id for s in self._flow.steps if s.kind != "keyed"),
        )
        seconds = time.monotonic() - self._claimed_at
        self.resumed = replace(self.resumed, seconds=seconds)

    def start_replicator(self, manifest: Manifest) -> None:
        """Hand the outbox to the replicator, which renews the lease from now on."""
        self._session.start_replicator(manifest)

    def engine_steps(self, manifest: Manifest) -> dict[str, tuple[str, str]]:
        """Give engine step ID to short name and kind."""
        names = manifest.names
        return {step.engine_id: (names[step.step_id], step.kind) for step in self._flow.steps}

    def flow_time(self, manifest: Manifest) -> int:
        """Tell the flow's time, in milliseconds: Redis's, less all downtime."""
        return server_time(self._client) - manifest.downtime

    def failover_possible(self) -> bool:
        """Whether a failover may take back what Redis has acknowledged."""
        return failover_possible(self._client)

    @contextmanager
    def naming_new_owner(self) -> Iterator[None]:
        """Let the error of a start that failed because it was overtaken say who has the flow."""
        try:
            yield
        except (FencedError, StateLostError, JoinTimeoutError) as error:
            if self._claimed is None:
                raise
            raise taken_over(self._client, self._keys, self._claimed) or error from None


def _parts_of(members: Sequence[Lease]) -> dict[str, list[str]]:
    """Give the partitions that the processes list together: short name of the step to names."""
    parts: dict[str, list[str]] = {}
    for member in members:
        for step, listed in member.parts.items():
            known = parts.setdefault(step, [])
            known.extend(part for part in listed if part not in known)
    return parts


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    packages = ("bytewax", "bytewax-redis-state", "redis", "msgpack")
    return {"python": python, **{name: version(name) for name in packages}}
