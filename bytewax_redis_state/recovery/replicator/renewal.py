"""The renewal of a flow that runs while its Redis comes back empty.

The flow gets a new incarnation, and its state comes from memory: each shard is called for all that
it holds, sources and sinks have their last rows in the outbox. Until every partition has shipped
that, the manifest says that the flow is not whole, and no start takes it for a state to resume.

Process 0 founds and ends a renewal; the others find its manifest, which lists them. Invariant: only
a Redis that knows neither manifest nor generation of the flow counts as empty; one that lost less
than that stops the flow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bytewax_redis_state.codec.delta import Answer
from bytewax_redis_state.errors import ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.outbox.outbox import Outbox, Renewal
from bytewax_redis_state.recovery.records.cells import LOST_HINT, Cell, cells_of
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig, ReplicatorConnection
from bytewax_redis_state.server.translation import translated

__all__ = ["Rebuild", "leave_roll", "renewed", "was_emptied"]

_POLL_SECONDS = 0.05


def was_emptied(setup: ReplicatorConfig) -> bool:
    """Tell whether Redis knows nothing of the flow, or only that it was founded anew.

    :arg setup: Of the replicator that misses its keys.
    :returns: Whether a renewal is due.
    :raises ServerUnavailableError: If it can't be asked.
    """
    line = ReplicatorConnection(setup)
    try:
        with translated(line.address):
            manifest = read_manifest(line.client, setup.keys)
            if manifest is None:
                return not line.client.exists(setup.keys.generation)
            return _is_ours(manifest, setup)
    finally:
        line.client.close()


def _is_ours(manifest: Manifest, setup: ReplicatorConfig) -> bool:
    return (
        manifest.renewing
        and manifest.incarnation != setup.incarnation
        and manifest.processes == tuple(setup.known.processes)
    )


def renewed(
    setup: ReplicatorConfig, outbox: Outbox, may_wait: Callable[[], bool]
) -> ReplicatorConfig | None:
    """Found a flow anew, or find how process 0 did.

    :arg setup: Of the life that ended.
    :arg outbox: Of the partition; the renewal is noted in it.
    :arg may_wait: Whether the dataflow still runs; asked now and then.
    :returns: The setup of the new life; ``None`` where the dataflow ended meanwhile.
    :raises StateLostError: If another execution has founded the flow.
    """
    while may_wait():
        try:
            manifest = _founded(setup, outbox)
        except ServerUnavailableError:
            manifest = None
        if manifest is not None:
            renewal = Renewal(manifest.incarnation, manifest.generation, manifest.resume_epoch)
            outbox.note_renewal(renewal)
            return setup.renewed(renewal)
        time.sleep(_POLL_SECONDS)
    return None


def _founded(setup: ReplicatorConfig, outbox: Outbox) -> Manifest | None:
    line = ReplicatorConnection(setup)
    try:
        with translated(line.address):
            manifest = read_manifest(line.client, setup.keys)
            if manifest is not None:
                if not _is_ours(manifest, setup):
                    raise StateLostError(
                        "Redis was emptied under the running flow, and another execution has "
                        "founded it anew",
                        "stop one of the two",
                    )
                return manifest
            if setup.partition > 0:
                return None
            return _found(line, setup, outbox)
    finally:
        line.client.close()


def _found(line: ReplicatorConnection, setup: ReplicatorConfig, outbox: Outbox) -> Manifest | None:
    """Make cells and partitions, then the manifest: until then nobody writes to them."""
    keys = setup.keys
    mark = outbox.commit_mark() or 0
    manifest = replace(
        setup.known,
        incarnation=os.urandom(16).hex(),
        generation=setup.generation + 1,
        resume_epoch=max(mark + 1, setup.resume_epoch),
        renewing=True,
    )
    cells = cells_of(manifest.steps, manifest.shards)
    with line.client.pipeline(transaction=False) as pipe:
        for cell in cells:  # left by a renewal that died before its manifest
            pipe.unlink(keys.applied(cell.step, cell.shard))
            line.scripts.create_cell(
                keys.applied(cell.step, cell.shard),
                manifest.incarnation,
                str(manifest.token),
                manifest.resume_epoch - 1,
                pipe,
            )
        pipe.execute()
    for partition in range(manifest.partitions):
        journal = Journal(
            line.client,
            line.scripts,
            keys,
            manifest.incarnation,
            manifest.token,
            partition,
        )
        journal.delete()
        journal.create(manifest.resume_epoch)
    new = line.scripts.renew_flow(
        keys.generation,
        keys.manifest,
        manifest.incarnation,
        str(manifest.token),
        manifest.to_fields(),
    )
    return manifest if new else None


def _roll_file(folder: Path, call: int) -> Path:
    return folder / f"roll-{call}"


def leave_roll(folder: Path, call: int, shards: int) -> None:
    """Tell the replicator how many shards will answer a call; the dataflow's side.

    :arg folder: The execution's own.
    :arg call: Number of the call.
    :arg shards: How many.
    """
    hidden = folder / ".roll"
    hidden.write_text(str(shards))
    hidden.rename(_roll_file(folder, call))


class Rebuild:
    """What a flow still lacks until its state is whole again; one partition's side.

    A shard's answer may come through any partition, so each posts beside its progress how many
    shards its process has called, and how many answers it has shipped; process 0 adds them up. What
    a cell changed before its answer is shipped too: it does no harm, since the answer holds it.

    :arg setup: Of the new life.
    :arg line: To use.
    """

    def __init__(self, setup: ReplicatorConfig, line: ReplicatorConnection) -> None:
        self._setup = setup
        self._line = line
        self._roll = _roll_file(Path(setup.outbox).parent, setup.call)
        self._answered: set[Cell] = set()
        self._epoch = setup.resume_epoch
        self._posted: tuple[int, int, int] | None = None
        self._looked = 0.0
        self.is_done = not self._goes_on()

    def _goes_on(self) -> bool:
        setup = self._setup
        with translated(self._line.address):
            manifest = read_manifest(self._line.client, setup.keys)
        return manifest is None or (manifest.token == setup.token and manifest.renewing)

    def take(self, cell: Cell, epoch: int, answer: Answer) -> None:
        """Note that a cell has answered in an epoch."""
        self._epoch = max(self._epoch, epoch)
        if answer.counted and answer.number == self._setup.call:
            self._answered.add(cell)

    def look(self) -> None:
        """Post how far this partition is, and see whether all are done; now and then.

        :raises StateLostError: If Redis was emptied once more.
        """
        if time.monotonic() < self._looked + _POLL_SECONDS:
            return
        self._looked = time.monotonic()
        self._post()
        self.is_done = self._end() if self._setup.partition == 0 else not self._goes_on()

    def _post(self) -> None:
        try:
            called = int(self._roll.read_text())
        except FileNotFoundError:  # the dataflow has not heard of it yet
            return
        setup, news = self._setup, (called, len(self._answered), self._epoch)
        if news == self._posted:
            return
        key = setup.keys.progress(setup.partition, setup.generation)
        with translated(self._line.address):
            if not self._line.scripts.post_answers(key, setup.incarnation, str(setup.token), *news):
                raise StateLostError("Redis was emptied again", LOST_HINT)
        self._posted = news

    def _end(self) -> bool:
        """End the renewal where all shards' answers are in the journals."""
        setup, client = self._setup, self._line.client
        called = answered = whole = 0
        epochs = []
        with translated(self._line.address):
            for partition in range(setup.partitions):
                key = setup.keys.progress(partition, setup.generation)
                found = client.hmget(key, "epoch", "called", "answered", "whole")
                if None in found:
                    return False
                numbers = [int(number or 0) for number in found]
                epochs.append(numbers[0])
                called += numbers[1]
                answered += numbers[2]
                whole = max(whole, numbers[3])
            if answered < called or min(epochs) <= whole:
                return False
            return self._line.scripts.end_renewal(
                setup.keys.manifest, setup.incarnation, str(setup.token), whole + 1
            )
