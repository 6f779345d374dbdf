"""The renewal of a flow that runs while its Redis comes back empty.

The flow gets a new incarnation, and its state comes from memory: each shard is asked for a snapshot
of all that it holds, and the last rows of sources and sinks are in the outbox. Until every
partition has shipped all of that, the manifest says that the flow is being renewed, and no start
takes it for a state to resume from.

Process 0 begins and ends a renewal; the others find its manifest, which lists them. Invariant: only
a Redis that has no key of the flow on any node counts as empty; leases aside, and what a renewal
made that died before its manifest. A Redis that lost less than that stops the flow.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bytewax_redis_state.codec.delta import FullDelta
from bytewax_redis_state.errors import ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.outbox.outbox import Outbox, RenewalRecord
from bytewax_redis_state.recovery.records.cells import Cell, cells_of
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest
from bytewax_redis_state.recovery.records.remains import foreign_remains
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.server.translation import translated

__all__ = ["EmptiedInPartError", "Renewal", "renewed", "was_emptied", "write_shard_count"]

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


class EmptiedInPartError(StateLostError):
    """Redis has lost the flow's manifest, and still holds other keys of the flow."""


def was_emptied(config: ReplicatorConfig) -> bool:
    """Tell whether Redis knows nothing of the flow, or only that a renewal has begun.

    :arg config: Of the replicator that misses its keys.
    :returns: Whether the flow has to be renewed.
    :raises EmptiedInPartError: If Redis has lost the manifest, but not all keys; names one.
    :raises ServerUnavailableError: If Redis can't be asked.
    """
    connection = ReplicatorConnection(config)
    try:
        with translated(connection.address):
            manifest = read_manifest(connection.client, config.keys)
            if manifest is not None:
                return _is_our_renewal(manifest, config)
            _require_empty(connection, config)
            return True
    finally:
        connection.client.close()


def _require_empty(connection: ReplicatorConnection, config: ReplicatorConfig) -> None:
    """Refuse to write a flow from memory beside keys that Redis still holds of it."""
    # The other processes have the start's ID, too: they know what process 0 is making.
    for key in foreign_remains(connection.client, config.keys, _renewed_token(config)):
        raise EmptiedInPartError(
            f"Redis has lost the manifest of the flow {config.flow_id!r} while it ran, but still "
            f"holds other keys of it, such as {key.decode(errors='replace')!r}",
            f"nothing was written over them; {way_out(config.keys)}",
        )


def _renewed_token(config: ReplicatorConfig) -> Token:
    return config.token._replace(generation=config.generation + 1)


def _is_our_renewal(manifest: Manifest, config: ReplicatorConfig) -> bool:
    return (
        manifest.renewing
        and manifest.incarnation != config.incarnation
        and manifest.processes == tuple(config.first_manifest.processes)
    )


def renewed(
    config: ReplicatorConfig, outbox: Outbox, may_wait: Callable[[], bool]
) -> ReplicatorConfig | None:
    """Begin a renewal, or find the one that process 0 has begun.

    :arg config: Of the life that Redis has lost.
    :arg outbox: Of the partition; the renewal is recorded in it.
    :arg may_wait: Whether the dataflow still runs; asked now and then.
    :returns: The config of the new life; ``None`` where the dataflow has ended before.
    :raises StateLostError: If another execution has begun a life of the flow, or other keys of it
        are there.
    """
    while may_wait():
        try:
            manifest = _begun(config, outbox)
        except ServerUnavailableError:
            manifest = None
        if manifest is not None:
            record = RenewalRecord(manifest.incarnation, manifest.generation, manifest.resume_epoch)
            outbox.record_renewal(record)
            return config.renewed(record)
        time.sleep(_POLL_SECONDS)
    return None


def _begun(config: ReplicatorConfig, outbox: Outbox) -> Manifest | None:
    connection = ReplicatorConnection(config)
    try:
        with translated(connection.address):
            manifest = read_manifest(connection.client, config.keys)
            if manifest is not None:
                if not _is_our_renewal(manifest, config):
                    raise StateLostError(
                        f"Redis was emptied while the flow {config.flow_id!r} ran, and another "
                        "execution has started the flow since",
                        "stop one of the two executions",
                    )
                return manifest
            if config.partition > 0:
                return None
            _require_empty(connection, config)
            return _begin(connection, config, outbox)
    finally:
        connection.client.close()


def _begin(
    connection: ReplicatorConnection, config: ReplicatorConfig, outbox: Outbox
) -> Manifest | None:
    """Make cells and partitions, then the manifest: until it is there nobody writes to them."""
    keys = config.keys
    mark = outbox.commit_mark() or 0
    manifest = replace(
        config.first_manifest,
        incarnation=os.urandom(16).hex(),
        generation=_renewed_token(config).generation,
        resume_epoch=max(mark + 1, config.resume_epoch),
        renewing=True,
    )
    store = FencedStore(
        connection.client, connection.scripts, keys, manifest.incarnation, manifest.token
    )
    cells = cells_of(manifest.steps, manifest.shards)
    with connection.client.pipeline(transaction=False) as pipe:
        for cell in cells:  # a renewal that died before its manifest may have left some
            pipe.unlink(keys.applied(cell.step, cell.shard))
            connection.scripts.create_cell(
                keys.applied(cell.step, cell.shard),
                manifest.incarnation,
                str(manifest.token),
                manifest.resume_epoch - 1,
                pipe,
            )
        pipe.execute()
    for partition in range(manifest.partitions):
        journal = Journal(store, partition)
        journal.delete()
        journal.create(manifest.resume_epoch)
    new = connection.scripts.renew_flow(
        keys.generation,
        keys.manifest,
        manifest.incarnation,
        str(manifest.token),
        manifest.to_fields(),
    )
    return manifest if new else None


def _shard_count_file(folder: Path, request: int) -> Path:
    return folder / f"shards-{request}"


def write_shard_count(folder: Path, request: int, shards: int) -> None:
    """Tell the replicator how many shards will answer a snapshot request; the dataflow's side.

    :arg folder: The execution's own folder.
    :arg request: Number of the snapshot request.
    :arg shards: How many shards of this process were asked.
    """
    hidden = folder / ".shards"
    hidden.write_text(str(shards))
    hidden.rename(_shard_count_file(folder, request))


class Renewal:
    """One partition's side of a renewal: posts its answers, and sees when all are there.

    A renewal counts answers, not time. A shard's answer may come through any partition, so each
    partition posts, beside its progress, how many shards its process has asked and how many answers
    it has shipped. Process 0 adds them up, and ends the renewal when the sums agree and progress
    has passed the last answer. Changes of a cell that came before its answer are shipped too; they
    do no harm, because the answer holds them, and deletes are part of it.

    :arg config: Of the new life.
    :arg connection: To use.
    """

    def __init__(self, config: ReplicatorConfig, connection: ReplicatorConnection) -> None:
        self._config = config
        self._connection = connection
        self._shard_count = _shard_count_file(Path(config.outbox).parent, config.snapshot_request)
        self._answered: set[Cell] = set()
        self._last_epoch = config.resume_epoch
        self._posted: tuple[int, int, int] | None = None
        self._looked = 0.0
        self.is_done = not self._goes_on()

    def _goes_on(self) -> bool:
        config = self._config
        with translated(self._connection.address):
            manifest = read_manifest(self._connection.client, config.keys)
        return manifest is None or (manifest.token == config.token and manifest.renewing)

    def take(self, cell: Cell, epoch: int, answer: FullDelta) -> None:
        """Note that a cell has answered in an epoch."""
        self._last_epoch = max(self._last_epoch, epoch)
        if answer.awaited and answer.request == self._config.snapshot_request:
            self._answered.add(cell)

    def look(self) -> None:
        """Post how far this partition is, and see whether all are done; now and then.

        :raises StateLostError: If Redis was emptied once more.
        :raises ServerUnavailableError: If Redis is away.
        """
        if self.is_done or time.monotonic() < self._looked + _POLL_SECONDS:
            return
        self._looked = time.monotonic()
        self._post()
        self.is_done = self._end() if self._config.partition == 0 else not self._goes_on()
        if self.is_done:
            logger.warning("state whole again generation=%d", self._config.generation)

    def _post(self) -> None:
        try:
            asked = int(self._shard_count.read_text())
        except FileNotFoundError:  # the dataflow has not seen the request yet
            return
        config, news = self._config, (asked, len(self._answered), self._last_epoch)
        if news == self._posted:
            return
        key = config.keys.progress(config.partition, config.generation)
        token = str(config.token)
        with translated(self._connection.address):
            if not self._connection.scripts.post_answers(key, config.incarnation, token, *news):
                raise StateLostError(
                    f"Redis was emptied again while the flow {config.flow_id!r} was renewed",
                    way_out(config.keys),
                )
        self._posted = news

    def _end(self) -> bool:
        """End the renewal where the answers of all shards are in the journals."""
        config, client = self._config, self._connection.client
        asked = answered = last_epoch = 0
        epochs = []
        with translated(self._connection.address):
            for partition in range(config.partitions):
                key = config.keys.progress(partition, config.generation)
                found = client.hmget(key, "epoch", "called", "answered", "whole")
                if None in found:
                    return False
                numbers = [int(number or 0) for number in found]
                epochs.append(numbers[0])
                asked += numbers[1]
                answered += numbers[2]
                last_epoch = max(last_epoch, numbers[3])
            if answered < asked or min(epochs) <= last_epoch:
                return False
            return self._connection.scripts.end_renewal(
                config.keys.manifest, config.incarnation, str(config.token), last_epoch + 1
            )
