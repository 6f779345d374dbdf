"""The takeover: the steps of a start that the coordinator makes, from its number to the manifest.

The order of the steps, and what is true after each, stand in ``steps.py``. Invariant: a takeover
writes nothing to a cell or a partition that it has not fenced or made itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import redis

from bytewax_redis_state.errors import (
    PartitionMissingError,
    ServerUnavailableError,
    StateLostError,
)
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import Cell, CellMark, cells_of
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.fields import MOST
from bytewax_redis_state.recovery.records.fold import JournalFold
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, read_manifest
from bytewax_redis_state.recovery.records.progress import Progress
from bytewax_redis_state.recovery.records.remains import remains
from bytewax_redis_state.recovery.records.state_scan import scan_keys
from bytewax_redis_state.recovery.records.token import Token, start_id
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.recovery.start.plan import StartPlan
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import server_time
from bytewax_redis_state.server.replicas import execute_confirmed, failover_possible, run_id_of

__all__ = ["Takeover", "begin_takeover", "known_or_founded", "require_partitions"]

_UNLINK_BATCH = 1000


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
    for key in remains(client, keys):
        left = key.decode(errors="replace")
        raise StateLostError(
            f"the flow has no manifest in Redis, but a key {left!r}", way_out(keys)
        )
    scripts.found_flow(keys.generation, keys.manifest, incarnation, shards, FORMAT)
    # Another start may have founded the flow first: then its manifest counts.
    founded = read_manifest(client, keys)
    if founded is None:
        raise StateLostError("the manifest vanished as soon as it was written", way_out(keys))
    return founded


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


def begin_takeover(
    client: redis.Redis,
    scripts: Scripts,
    keys: FlowKeys,
    known: Manifest,
    plan: StartPlan,
    process_ids: Sequence[str],
    versions: Mapping[str, str],
) -> Takeover:
    """Take the next generation of a flow for this start.

    :arg known: The manifest that the plan was made from.
    :arg plan: What the new generation will be made of.
    :arg process_ids: Random IDs of all processes of the cluster, in their order.
    :arg versions: Library versions, for the manifest.
    :returns: The steps that follow.
    :raises FencedError: If another start has taken a generation at the same moment.
    """
    _require_counter(client, keys, known)
    own_id = start_id()
    token = Token(scripts.bump_generation(keys.generation, own_id), own_id)
    store = FencedStore(client, scripts, keys, known.incarnation, token)
    takeover = Takeover(store, known, plan, process_ids, versions)
    takeover.hold_generation()
    return takeover


def _require_counter(client: redis.Redis, keys: FlowKeys, known: Manifest) -> None:
    """Refuse a counter that the manifest shows to be wrong, before it is moved.

    :raises StateLostError: Says what to set it to, which loses nothing.
    """
    held = cast("bytes | None", client.get(keys.generation))
    try:
        right = held is not None and known.generation <= Token.parse(held).generation < MOST
    except ValueError:
        right = False
    if not right:
        name = keys.generation.decode()
        found = "missing" if held is None else repr(held[:80].decode(errors="backslashreplace"))
        raise StateLostError(
            f"the generation counter {name!r} is {found}, and the manifest is of generation "
            f"{known.token}",
            f"set it to that: redis-cli SET {shlex.quote(name)} {known.token}; then start again",
        )


class Takeover:
    """The steps of a start that the coordinator makes, one method each, in the order of the start.

    :arg store: Written in the name of this start.
    :arg known: The manifest that the plan was made from: of the last generation that has one.
    :arg plan: What the new generation will be made of.
    :arg process_ids: Random IDs of all processes of the cluster, in their order.
    :arg versions: Library versions, for the manifest.
    """

    def __init__(
        self,
        store: FencedStore,
        known: Manifest,
        plan: StartPlan,
        process_ids: Sequence[str],
        versions: Mapping[str, str],
    ) -> None:
        self._store = store
        self._client = store.client
        self._scripts = store.scripts
        self._keys = store.keys
        self._old = known
        self._plan = plan
        self._process_ids = tuple(process_ids)
        self._versions = versions
        self._downtime = known.downtime
        self._cells = cells_of(known.steps, known.shards)
        # A single server that is killed in the midst of a start comes back without a word, and may
        # lack a fold or the manifest. So the manifest is written, and journals are deleted, only on
        # the run of the server that the takeover began on.
        self._run_id = run_id_of(store.client, guarded=failover_possible(store.client))

    def _journal(self, token: Token, partition: int) -> Journal:
        return Journal(self._store.under(token), partition)

    def hold_generation(self) -> None:
        """Write the counter once more, confirmed: a failover must not give its number again."""
        (held,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.hold_generation(
                self._keys.generation, self._store.generation, pipe
            ),
        )
        self._store.require_own([held], refusal=0)

    def require_newest(self) -> None:
        """Check that no other start has written a manifest since this one planned.

        :raises FencedError: If one has.
        :raises StateLostError: If the counter of the generations has lost numbers.
        """
        # A third read: between the plan and the bump another start may have been made whole. Its
        # manifest has a lower number than this start's token, so no compare-and-set would notice.
        now = read_manifest(self._client, self._keys)
        if now is None or now.token != self._old.token:
            raise self._store.overtaken()
        if self._store.token.generation <= self._old.generation:
            raise StateLostError(
                f"the generation counter stands at {self._store.token.generation}, "
                f"the manifest at {self._old.generation}",
                way_out(self._keys),
            )

    def fence_partitions(self) -> dict[int, Progress]:
        """Shut each old partition for its replicator and read how far it came, in one script.

        A manifest is written after its partitions were made, and they are deleted after the next
        one is written: a partition that is missing is a loss, whatever has become of the starts.

        :raises FencedError: If a newer start has taken the flow over.
        :raises StateLostError: If a partition lacks its progress, its journal or entries of it.
        """
        try:
            return {
                partition: self._journal(self._old.token, partition).fence(self._store.token)
                for partition in range(self._old.partitions)
            }
        except StateLostError:
            self.hold_generation()  # a newer start may have deleted them
            raise

    def fence_cells(self) -> dict[Cell, CellMark]:
        """Shut each cell for the old replicators, and read its fields in the same script.

        :raises FencedError: If a newer start has fenced a cell: the flow is that start's then.
        :raises StateLostError: If a cell is missing or of another life of the flow.
        """

        def fence(pipe: Any) -> None:
            for cell in self._cells:
                applied = self._keys.applied(cell.step, cell.shard)
                self._scripts.fence_cell(
                    applied, self._store.incarnation, self._store.generation, pipe
                )

        answers: list[list[bytes]] = execute_confirmed(self._client, fence)
        marks = {
            cell: CellMark.parse(
                self._keys,
                cell,
                dict(zip(flat[::2], flat[1::2], strict=True)),
                self._store.incarnation,
            )
            for cell, flat in zip(self._cells, answers, strict=True)
        }
        if any(mark.token != self._store.token for mark in marks.values()):
            raise self._store.overtaken()
        return marks

    def resume_epoch(self, fences: Mapping[int, Progress]) -> int:
        """Find the resume epoch, and for how long the flow has stood still.

        :arg fences: Progress of every old partition; none where the flow was only founded.
        """
        committed = max([self._old.time, *(fence.time for fence in fences.values())])
        if committed:
            self._downtime += max(0, server_time(self._client) - committed)
        return min(
            (fence.epoch for fence in fences.values()),
            default=self._old.resume_epoch,
        )

    def check(
        self, marks: Mapping[Cell, CellMark], fences: Mapping[int, Progress], epoch: int
    ) -> None:
        """Check both sides of each cell: what it has applied, and where its journals begin.

        :raises StateLostError: If Redis has lost something that it had acknowledged.
        """
        for cell, mark in marks.items():
            where = f"shard {cell.shard} of step {cell.step!r}"
            if mark.highest >= epoch:
                raise StateLostError(
                    f"{where} has applied epoch {mark.highest}, the journal ends before {epoch}",
                    way_out(self._keys),
                )
            for partition, fence in fences.items():
                if fence.trimmed > mark.applied(partition) + 1:
                    raise StateLostError(
                        f"{where} has applied epoch {mark.applied(partition)}, "
                        f"the journal begins at {fence.trimmed}",
                        way_out(self._keys),
                    )

    def fold(self, fences: Mapping[int, Progress], epoch: int) -> None:
        """Fold what is committed into the keyed state; the rest stays behind in the journals."""
        # The journal may hold deadlines of a step whose retention ends with this start.
        timed = self._old.retention.keys() | self._plan.retention.keys()
        for partition, fence in fences.items():
            fold = JournalFold(
                self._store,
                partition,
                self._cells,
                timed=timed,
                offset=self._downtime + self._plan.allowance,
            )
            journal = self._journal(self._old.token, partition)
            fold.fold(journal, fence.trimmed - 1, epoch - 1)

    def make_generation(self, fences: Mapping[int, Progress], epoch: int) -> None:
        """Make what the manifest will name, and delete the state that it will not.

        :raises PartitionMissingError: If a source or sink partition with state is not listed.
        """
        # Once more: a partition's state may have been in the journal alone until the fold.
        require_partitions(self._client, self._keys, self._plan, self._old.shards)
        self._settle_cells(epoch, list(fences))
        for name in self._plan.dropped:
            self._drop_step(name)
        for step, part in self._plan.drop_partitions:
            shard = shard_of(part, self._old.shards)
            self._drop_keys({Cell(step, shard): [self._keys.state(step, shard, part)]})
        self._create_cells(self._plan.new, epoch)
        for partition in range(len(self._process_ids)):
            self._journal(self._store.token, partition).create(epoch)

    def _settle_cells(self, epoch: int, folded: Sequence[int]) -> None:
        """Say in each cell that all its partitions are applied up to the resume epoch."""

        def settle(pipe: Any) -> None:
            for cell in self._cells:
                self._scripts.settle_cell(
                    self._keys.applied(cell.step, cell.shard),
                    self._store.incarnation,
                    self._store.generation,
                    epoch - 1,
                    pipe,
                    folded,
                )

        counts = execute_confirmed(self._client, settle)
        self._store.require_own(counts)
        if -1 in counts:
            raise ServerUnavailableError(
                "a failover of Redis has lost what this start had folded", "start again"
            )

    def _create_cells(self, steps: Iterable[str], epoch: int) -> None:
        cells = cells_of(steps, self._old.shards)

        def create(pipe: Any) -> None:
            for cell in cells:
                self._scripts.create_cell(
                    self._keys.applied(cell.step, cell.shard),
                    self._store.incarnation,
                    self._store.generation,
                    epoch - 1,
                    pipe,
                )

        counts: list[int] = execute_confirmed(self._client, create)
        self._store.require_own(counts, refusal=-1)
        for cell, count in zip(cells, counts, strict=True):
            if count:
                raise StateLostError(
                    f"step {cell.step!r} is new to the manifest, but shard {cell.shard} has "
                    f"{count} keys",
                    way_out(self._keys),
                )

    def _drop_step(self, name: str) -> None:
        """Delete a step's keys; its cells stay until no manifest names them."""
        cells = {
            self._keys.state_prefix(cell.step, cell.shard): cell
            for cell in cells_of([name], self._old.shards)
        }
        for page in scan_keys(self._client, self._keys, cells):
            for prefix, found in page:
                # In chunks that do not hold up Redis. A key that SCAN gives twice is deleted once.
                for start in range(0, len(found), _UNLINK_BATCH):
                    self._drop_keys({cells[prefix]: found[start : start + _UNLINK_BATCH]})

    def _drop_keys(self, cells: Mapping[Cell, Sequence[bytes]]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for cell, state_keys in cells.items():
                self._scripts.drop_keys(
                    self._keys.applied(cell.step, cell.shard),
                    state_keys,
                    self._store.incarnation,
                    self._store.generation,
                    pipe,
                )
            self._store.require_own(pipe.execute())

    def write_manifest(self, epoch: int) -> Manifest:
        """Write the manifest of the new generation, by compare-and-set on the counter.

        :raises FencedError: If a newer start has moved the counter.
        :raises ServerUnavailableError: If the server was started again since the takeover began.
        """
        manifest = replace(
            self._old,
            generation=self._store.token.generation,
            start=self._store.token.start,
            partitions=len(self._process_ids),
            resume_epoch=epoch,
            processes=self._process_ids,
            steps=self._plan.steps,
            parts=self._plan.parts,
            versions=self._versions,
            retention=self._plan.retention,
            downtime=self._downtime,
            allowance=self._plan.allowance,
        )
        (stood,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.write_manifest(
                self._keys.generation,
                self._keys.manifest,
                manifest.incarnation,
                self._store.generation,
                self._run_id,
                manifest.to_fields(),
                pipe,
            ),
        )
        if stood < 0:
            raise ServerUnavailableError(
                "Redis was restarted during this start, and may have lost its last writes",
                "start again",
            )
        self._store.require_own([stood], refusal=0)
        return manifest

    def clean(self) -> None:
        """Delete the old generation's journals, and the cells that no manifest names any longer.

        A Redis that has gone back to before the manifest was written needs them again, so only the
        run of the server that has the manifest deletes them.
        """
        for partition in range(self._old.partitions):
            self._journal(self._old.token, partition).delete_fenced(self._store.token, self._run_id)
        with self._client.pipeline(transaction=False) as pipe:
            for cell in cells_of(self._plan.dropped, self._old.shards):
                applied = self._keys.applied(cell.step, cell.shard)
                self._scripts.delete_cell(applied, self._store.generation, self._run_id, pipe)
            pipe.execute()
