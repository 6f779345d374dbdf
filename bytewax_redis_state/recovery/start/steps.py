"""The resume of a flow: from a claimed lease to an outbox that the engine can load.

Invariant: what can be refused is refused before anything is written; and the outbox that comes out
holds the whole state before the manifest's resume epoch, each cell once in the cluster.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import redis
from bytewax.recovery import init_db_dir

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.outbox.outbox import OutboxOwner, part_file, prepare
from bytewax_redis_state.recovery.outbox.scratch import Scratch
from bytewax_redis_state.recovery.records.lease import Lease
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest
from bytewax_redis_state.recovery.reporter import Reporter
from bytewax_redis_state.recovery.start.expiry import (
    expired_keys,
    refuse_expired,
    renew,
    settle,
    told,
)
from bytewax_redis_state.recovery.start.join_barrier import (
    ClusterShape,
    taken_over,
    wait_for_manifest,
    wait_for_members,
)
from bytewax_redis_state.recovery.start.plan import plan_start
from bytewax_redis_state.recovery.start.reseal import reseal_outdated
from bytewax_redis_state.recovery.start.restore import Restorer
from bytewax_redis_state.recovery.start.takeover import (
    known_or_founded,
    reached,
    require_partitions,
    take_over,
)
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import server_time

__all__ = ["Resume"]


class Resume:
    """The steps of a resume, in the order in which a session calls them.

    :arg client: Where the state is.
    :arg keys: Of the flow.
    :arg settings: Drops, renames, timeouts, the number of shards and what is said of expired keys
        are heeded.
    :arg shape: Which process this is, of how many.
    :arg steps: Steps of the flow that bear state.
    :arg parts: Natural short name of each source and sink to the partitions it lists here.
    :arg lifetimes: Full ID of each step whose idle keys end, to how long they are kept.
    :arg reporter: Gets lines and progress.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: FlowKeys,
        settings: RecoverySettings,
        shape: ClusterShape,
        steps: Sequence[StateStep],
        parts: Mapping[str, list[str]],
        lifetimes: Mapping[str, timedelta],
        reporter: Reporter,
    ) -> None:
        self._client = client
        self._keys = keys
        self._settings = settings
        self._shape = shape
        self._steps = steps
        self._lifetimes = lifetimes
        self._reporter = reporter
        self.parts = parts

    def preflight(self) -> None:
        """Refuse what can be refused before anything is written.

        :raises StateError: If the flow does not fit what Redis holds of it.
        """
        manifest = read_manifest(self._client, self._keys)
        if manifest is None:
            return
        manifest.require_whole()
        plan = plan_start(manifest, self._steps, self.parts, self._settings)
        if self._settings.on_expired == "fail" and self._shape.process_id == 0:
            refuse_expired(expired_keys(self._client, self._keys, manifest))
        if self._shape.process_count == 1:  # the others' partitions are not known yet
            require_partitions(self._client, self._keys, plan, manifest.shards)

    def start(self, lease: Lease) -> Manifest:
        """Meet the other processes and start a generation with them.

        :arg lease: Of this process, claimed and renewed.
        :returns: The manifest that lists this process.
        :raises StateError: If they don't come, or Redis lost something.
        """
        timeout = self._settings.join_timeout
        if self._shape.process_id > 0:
            return wait_for_manifest(self._client, self._keys, lease, timeout)
        members = wait_for_members(
            self._client, self._keys, lease, self._shape.process_count, timeout, self._reporter.say
        )
        reached("joined")
        parts: dict[str, list[str]] = {}
        for member in members:
            for name, listed in member.parts.items():
                parts.setdefault(name, []).extend(p for p in listed if p not in parts.get(name, []))
        scripts = Scripts(self._client)
        manifest = known_or_founded(
            self._client, scripts, self._keys, os.urandom(16).hex(), self._settings.shards
        )
        # Paused until here, it would have read its successor's manifest, and taken that one over.
        # Paused from here on, it has an older one, which is compared after the bump.
        lost = taken_over(self._client, self._keys, lease)
        if lost is not None:
            raise lost
        plan = plan_start(manifest, self._steps, parts, self._settings, self._lifetimes)
        require_partitions(self._client, self._keys, plan, manifest.shards)
        ids = [member.id for member in members]
        return take_over(self._client, scripts, self._keys, manifest, plan, ids, _versions())

    def engine_steps(self, manifest: Manifest) -> dict[str, tuple[str, str]]:
        """Give engine step ID to short name and kind."""
        names = manifest.names
        return {step.engine_id: (names[step.step_id], step.kind) for step in self._steps}

    def restore(
        self, manifest: Manifest, codec: Codec, handover: Handover
    ) -> tuple[dict[str, int], dict[str, int], Restorer]:
        """Read the shards that the workers of this process will own.

        :arg codec: Of the flow; values that other keys protect are written anew.
        :arg handover: Where the states of keyed steps wait for the engine.
        :returns: Short step name to number of state keys restored, and to number of keys that had
            expired; and what was read.
        :raises StateLostError: If something is missing.
        :raises StateExpiredError: If keys have expired and the settings say to fail.
        :raises DecodeError: If a value needs a secret key that is not there, or is forged.
        """
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
            handover,
            self._reporter.progress,
        )
        counts = restorer.read()
        expired = self._settle(manifest, restorer)
        resealed = reseal_outdated(self._client, self._keys, manifest, restorer.cells, codec)
        if resealed:
            self._reporter.say(f"{resealed:,} values were written anew with the current keys")
        return counts, expired, restorer

    def _settle(self, manifest: Manifest, restorer: Restorer) -> dict[str, int]:
        """Set the counts right where keys have expired, and keep the others from it for longer."""
        expired: Counter[str] = Counter()
        for cell, gone in restorer.gone.items():
            expired[cell.step] += sum(gone.values())
        if self._settings.on_expired == "fail":
            refuse_expired(expired)
        if expired:
            self._reporter.warn(
                f"{told(expired)} had expired in Redis while the flow stood still for longer than "
                "the downtime allowance; each counts as new when it comes back"
            )
        scripts = Scripts(self._client)
        renewed = set()
        for cell, states in restorer.overdue():
            renew(self._client, scripts, self._keys, manifest, cell, states)
            renewed.add(cell)
        if expired or renewed:
            settle(self._client, scripts, self._keys, manifest, restorer.gone, frozenset(renewed))
        return dict(expired)

    def flow_time(self, manifest: Manifest) -> int:
        """Tell the flow's time, in milliseconds: Redis's, less all downtime."""
        return server_time(self._client) - manifest.downtime

    def make_outbox(self, scratch: Scratch, manifest: Manifest, restorer: Restorer) -> None:
        """Make the recovery partition of this process, with what was restored in it."""
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
            keep_last=frozenset(step.engine_id for step in self._steps if step.kind != "keyed"),
        )


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    packages = ("bytewax", "bytewax-redis-state", "redis", "msgpack")
    return {"python": python, **{name: version(name) for name in packages}}
