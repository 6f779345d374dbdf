"""The start of a generation: take the flow over, in an order that no interleaving can hurt.

What is true after each step (rule 5 of the design; a process may die between any two):

a. ``claimed``    no live execution holds the flow's leases
b. ``joined``     every process of the cluster has registered its random ID
c. ``bumped``     this start has a generation of its own, a number and an ID; older starts can't
                  write a manifest, nor can one that Redis gave the same number before it lost that
d. ``fenced``     no old replicator can append; how far each old partition came is known
e. ``cells``      no old replicator can fold
f. ``epoch``      the resume epoch E is known: the least progress of all old partitions
g. ``checked``    no cell has applied anything at or above E, and no journal has a hole
h. ``folded``     the keyed state is exactly the state before E; what is above is dropped
   ``settled``    new cells, new journals and new progress exist
i. ``written``    the manifest names the new generation
j. ``cleaned``    the old journals and the cells of dropped steps are gone; what starts that died
                  have left goes later, see ``records/sweep.py``

What c, d, e, h and i write is on all replicas that are in step before the start relies on it, so no
failover takes it back (server/replicas.py); a failover in between is noticed, and so is a single
server that was started anew (i and j ask for its run): the start begins anew. a and b are in
lease.py and cluster.py; the coordinator alone does c to j.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import redis

from bytewax_redis_state.errors import (
    FencedError,
    PartitionMissingError,
    ServerUnavailableError,
    StateLostError,
)
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import LOST_HINT, Cell, CellMark, cells_of
from bytewax_redis_state.recovery.records.fold import Folder
from bytewax_redis_state.recovery.records.journal import Fence, Journal
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, read_manifest
from bytewax_redis_state.recovery.records.token import Token, start_id
from bytewax_redis_state.recovery.start.plan import StartPlan
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import server_time
from bytewax_redis_state.server.replicas import execute_confirmed, failover_possible, run_id_of

__all__ = [
    "known_or_founded",
    "reached",
    "require_partitions",
    "take_over",
]

logger = logging.getLogger(__name__)

_UNLINK_BATCH = 1000


def reached(step: str) -> None:
    """Note that a numbered step of the start is done; the crash tests strike here."""
    logger.debug("start step=%s", step)


def known_or_founded(
    client: redis.Redis, scripts: Scripts, keys: FlowKeys, incarnation: str, shards: int
) -> Manifest:
    """Read the manifest, or found the flow where Redis holds nothing of it.

    :arg incarnation: Random ID for the flow's life, if it is founded now.
    :raises StateLostError: If there is no manifest but other keys of the flow.
    """
    manifest = read_manifest(client, keys)
    if manifest is not None:
        return manifest
    for key in _flow_keys(client, keys):
        raise StateLostError(f"the flow has no manifest in Redis, but a key {key!r}", LOST_HINT)
    scripts.found_flow(keys.generation, keys.manifest, incarnation, shards, FORMAT)
    founded = read_manifest(client, keys)
    if founded is None:
        raise StateLostError("the manifest vanished as soon as it was written", LOST_HINT)
    return founded


def _flow_keys(client: redis.Redis, keys: FlowKeys) -> Iterator[str]:
    leases = keys.lease(0)[:-1]
    for pattern in keys.patterns:
        for key in client.scan_iter(match=pattern, count=10_000):
            if not key.startswith(leases):
                yield key.decode(errors="replace")


def require_partitions(client: redis.Redis, keys: FlowKeys, plan: StartPlan, shards: int) -> None:
    """Refuse state of source and sink partitions that are no longer listed.

    :raises PartitionMissingError: Names the first, and the option that drops it.
    """
    for step, part in plan.gone:
        if (step, part) in plan.drop_partitions:
            continue
        if client.exists(keys.state(step, shard_of(part, shards), part)):
            listed = ", ".join(plan.parts[step][:8]) or "none"
            raise PartitionMissingError(
                f"Redis holds state of partition {part!r} of step {step!r}, "
                f"which is no longer listed (listed: {listed})",
                f"list it again, or delete its state with --drop-partition {step}:{part}",
            )


def take_over(
    client: redis.Redis,
    scripts: Scripts,
    keys: FlowKeys,
    manifest: Manifest,
    plan: StartPlan,
    process_ids: Sequence[str],
    versions: Mapping[str, str],
) -> Manifest:
    """Start a new generation of a flow: steps c to j, the coordinator's.

    :arg manifest: Of the last generation that got as far as i.
    :arg plan: What the new generation is to be made of.
    :arg process_ids: Random IDs of all processes of the cluster, in their order.
    :arg versions: Library versions, for the manifest.
    :returns: The new manifest.
    :raises StateLostError: If Redis lost something that it had acknowledged.
    :raises FencedError: If another start overtook this one.
    """
    own_id = start_id()
    token = Token(scripts.bump_generation(keys.generation, own_id), own_id)
    start = _Start(client, scripts, keys, manifest, token)
    start.hold_generation()
    reached("bumped")
    start.require_newest()
    fences = start.fence_partitions()
    reached("fenced")
    marks = start.fence_cells()
    reached("cells")
    epoch = start.resume_epoch(fences)
    reached("epoch")
    start.check(marks, fences, epoch)
    reached("checked")
    downtime = start.downtime(fences)
    start.fold(fences, epoch, plan, downtime)
    reached("folded")
    require_partitions(client, keys, plan, manifest.shards)
    start.settle(plan, epoch, fences, len(process_ids))
    reached("settled")
    written = start.write_manifest(plan, epoch, downtime, process_ids, versions)
    reached("written")
    start.clean(plan)
    reached("cleaned")
    return written


class _Start:
    """The calls of :func:`take_over`, in its order."""

    def __init__(
        self,
        client: redis.Redis,
        scripts: Scripts,
        keys: FlowKeys,
        manifest: Manifest,
        token: Token,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._keys = keys
        self._old = manifest
        self._token = token
        self._cells = cells_of(manifest.steps, manifest.shards)
        self._run_id = run_id_of(client, guarded=failover_possible(client))

    def _journal(self, token: Token, partition: int) -> Journal:
        return Journal(
            self._client, self._scripts, self._keys, self._old.incarnation, token, partition
        )

    def hold_generation(self) -> None:
        """Step c, of which a failover must not give the number to another start."""
        (held,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.hold_generation(
                self._keys.generation, str(self._token), pipe
            ),
        )
        if not held:
            raise FencedError("another start of the flow overtook this one", "start again")

    def require_newest(self) -> None:
        """Read the manifest again: one written since would make this start's plan a stale one."""
        now = read_manifest(self._client, self._keys)
        if now is None or now.token != self._old.token:
            raise FencedError("another start of the flow overtook this one", "start again")
        if self._token.generation <= self._old.generation:
            raise StateLostError(
                f"the generation counter stands at {self._token.generation}, "
                f"the manifest at {self._old.generation}",
                LOST_HINT,
            )

    def fence_partitions(self) -> dict[int, Fence | None]:
        """Step d."""
        return {
            partition: self._journal(self._old.token, partition).fence(self._token)
            for partition in range(self._old.partitions)
        }

    def fence_cells(self) -> dict[Cell, CellMark]:
        """Step e; a cell that another start has taken is not this one's, nor is the flow."""

        def fence(pipe: Any) -> None:
            for cell in self._cells:
                applied = self._keys.applied(cell.step, cell.shard)
                self._scripts.fence_cell(applied, self._old.incarnation, str(self._token), pipe)

        answers: list[list[bytes]] = execute_confirmed(self._client, fence)
        marks = {
            cell: CellMark.parse(
                cell, dict(zip(flat[::2], flat[1::2], strict=True)), self._old.incarnation
            )
            for cell, flat in zip(self._cells, answers, strict=True)
        }
        if any(mark.token != self._token for mark in marks.values()):
            raise FencedError("another start of the flow overtook this one", "start again")
        return marks

    def resume_epoch(self, fences: Mapping[int, Fence | None]) -> int:
        """Step f: a partition without valid progress counts as where its generation began."""
        return min(
            (self._old.resume_epoch if fence is None else fence.epoch for fence in fences.values()),
            default=self._old.resume_epoch,
        )

    def check(
        self, marks: Mapping[Cell, CellMark], fences: Mapping[int, Fence | None], epoch: int
    ) -> None:
        """Step g, and both sides of each cell."""
        for cell, mark in marks.items():
            where = f"shard {cell.shard} of step {cell.step!r}"
            if mark.highest >= epoch:
                raise StateLostError(
                    f"{where} has applied epoch {mark.highest}, the journal ends before {epoch}",
                    LOST_HINT,
                )
            for partition, fence in fences.items():
                if fence is not None and fence.trimmed > mark.applied(partition) + 1:
                    raise StateLostError(
                        f"{where} has applied epoch {mark.applied(partition)}, "
                        f"the journal begins at {fence.trimmed}",
                        LOST_HINT,
                    )

    def downtime(self, fences: Mapping[int, Fence | None]) -> int:
        """Add what has passed since the last commit to the time for which the flow stood still."""
        committed = max([self._old.time, *(fence.time for fence in fences.values() if fence)])
        if not committed:
            return self._old.downtime
        return self._old.downtime + max(0, server_time(self._client) - committed)

    def fold(
        self, fences: Mapping[int, Fence | None], epoch: int, plan: StartPlan, downtime: int
    ) -> None:
        """Step h: what is committed goes into the keyed state, the rest is left to be dropped."""
        # The journal may hold deadlines of a step that is to have no retention any more.
        timed = self._old.retention.keys() | plan.retention.keys()
        for partition, fence in fences.items():
            if fence is None:
                continue
            folder = Folder(
                self._client,
                self._scripts,
                self._keys,
                self._old.incarnation,
                self._token,
                partition,
                self._cells,
                timed=timed,
                offset=downtime + plan.allowance,
            )
            journal = self._journal(self._old.token, partition)
            folder.fold(journal, fence.trimmed - 1, epoch - 1)

    def settle(
        self,
        plan: StartPlan,
        epoch: int,
        fences: Mapping[int, Fence | None],
        partitions: int,
    ) -> None:
        """Make what the manifest will name, and unmake what it will not."""
        self._settle_cells(epoch, [p for p, fence in fences.items() if fence is not None])
        for name in plan.dropped:
            self._drop_step(name)
        for step, part in plan.drop_partitions:
            shard = shard_of(part, self._old.shards)
            self._drop_keys({Cell(step, shard): [self._keys.state(step, shard, part)]})
        self._create_cells(plan.new, epoch)
        for partition in range(partitions):
            self._journal(self._token, partition).create(epoch)

    def _settle_cells(self, epoch: int, folded: Sequence[int]) -> None:
        def settle(pipe: Any) -> None:
            for cell in self._cells:
                self._scripts.settle_cell(
                    self._keys.applied(cell.step, cell.shard),
                    self._old.incarnation,
                    str(self._token),
                    epoch - 1,
                    pipe,
                    folded,
                )

        answers = execute_confirmed(self._client, settle)
        if None in answers:
            raise FencedError("another start of the flow overtook this one", "start again")
        if -1 in answers:
            raise ServerUnavailableError(
                "a failover of Redis has lost what this start had folded", "start again"
            )

    def _create_cells(self, steps: Iterable[str], epoch: int) -> None:
        cells = cells_of(steps, self._old.shards)

        def create(pipe: Any) -> None:
            for cell in cells:
                self._scripts.create_cell(
                    self._keys.applied(cell.step, cell.shard),
                    self._old.incarnation,
                    str(self._token),
                    epoch - 1,
                    pipe,
                )

        counts: list[int] = execute_confirmed(self._client, create)
        for cell, count in zip(cells, counts, strict=True):
            if count < 0:
                raise FencedError("another start of the flow overtook this one", "start again")
            if count:
                raise StateLostError(
                    f"step {cell.step!r} is new to the manifest, but shard {cell.shard} has "
                    f"{count} keys",
                    LOST_HINT,
                )

    def _drop_step(self, name: str) -> None:
        """Delete a step's keys; its cells stay until no manifest names them any more."""
        found = self._client.scan_iter(match=self._keys.state_pattern, count=10_000)
        parsed = ((key, self._keys.parse_state(key)) for key in found)
        doomed = ((key, at[1]) for key, at in parsed if at is not None and at[0] == name)
        while batch := list(islice(doomed, _UNLINK_BATCH)):
            cells: dict[Cell, list[bytes]] = {}
            for key, shard in dict(batch).items():  # SCAN may give a key twice
                cells.setdefault(Cell(name, shard), []).append(key)
            self._drop_keys(cells)

    def _drop_keys(self, cells: Mapping[Cell, Sequence[bytes]]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for cell, state_keys in cells.items():
                self._scripts.drop_keys(
                    self._keys.applied(cell.step, cell.shard),
                    state_keys,
                    self._old.incarnation,
                    str(self._token),
                    pipe,
                )
            if None in pipe.execute():
                raise FencedError("another start of the flow overtook this one", "start again")

    def write_manifest(
        self,
        plan: StartPlan,
        epoch: int,
        downtime: int,
        process_ids: Sequence[str],
        versions: Mapping[str, str],
    ) -> Manifest:
        """Step i."""
        manifest = replace(
            self._old,
            generation=self._token.generation,
            start=self._token.start,
            partitions=len(process_ids),
            resume_epoch=epoch,
            processes=tuple(process_ids),
            steps=plan.steps,
            parts=plan.parts,
            versions=versions,
            retention=plan.retention,
            downtime=downtime,
            allowance=plan.allowance,
        )
        (stood,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.write_manifest(
                self._keys.generation,
                self._keys.manifest,
                manifest.incarnation,
                str(manifest.token),
                self._run_id,
                manifest.to_fields(),
                pipe,
            ),
        )
        if stood < 0:
            raise ServerUnavailableError(
                "Redis was started anew while this start was under way, and may have lost its tail",
                "start again",
            )
        if not stood:
            raise FencedError("another start of the flow overtook this one", "start again")
        return manifest

    def clean(self, plan: StartPlan) -> None:
        """Step j: the old generation's journals, and cells that no manifest names any more.

        A Redis that has gone back to before the manifest was written needs them again.
        """
        for partition in range(self._old.partitions):
            self._journal(self._old.token, partition).delete_fenced(self._token, self._run_id)
        with self._client.pipeline(transaction=False) as pipe:
            for cell in cells_of(plan.dropped, self._old.shards):
                applied = self._keys.applied(cell.step, cell.shard)
                self._scripts.delete_cell(applied, str(self._token), self._run_id, pipe)
            pipe.execute()
