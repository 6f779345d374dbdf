"""Replicator: ships one outbox to Redis for as long as the flow's life in Redis lasts.

The main thread ships and prunes. Beside it run the threads of the heartbeat, the confirmer, the
checkpointer and the lease. Each is a ``WatchedThread``: the main thread asks them in every round,
and raises what ended one of them. Invariant: a replicator that was fenced writes nothing more.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bytewax_redis_state.errors import (
    FencedError,
    ServerError,
    ServerUnavailableError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.recovery.outbox.outbox import Outbox
from bytewax_redis_state.recovery.records.lease import Lease, LeaseHolder
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.records.token import overtaken
from bytewax_redis_state.recovery.replicator.backoff import LEAST_SECONDS, MOST_SECONDS, Backoff
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.confirmer import Confirmer
from bytewax_redis_state.recovery.replicator.connection import ReplicatorConnection
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.recovery.replicator.file_watch import FileWatch
from bytewax_redis_state.recovery.replicator.heartbeat import Heartbeat
from bytewax_redis_state.recovery.replicator.last_steps import LastSteps
from bytewax_redis_state.recovery.replicator.member_watch import MemberWatch
from bytewax_redis_state.recovery.replicator.parent_process import ParentProcess
from bytewax_redis_state.recovery.replicator.pruner import Pruner
from bytewax_redis_state.recovery.replicator.renewal import (
    EmptiedInPartError,
    Renewal,
    was_emptied,
)
from bytewax_redis_state.recovery.replicator.shipper import Shipper
from bytewax_redis_state.recovery.replicator.status import ReplicatorState
from bytewax_redis_state.server.translation import translated

__all__ = ["Replicator", "ending_of"]

logger = logging.getLogger(__name__)

_EMPTYING_SECONDS = 3.0  # for whoever deletes a flow's keys, or empties a cluster, to be done
_BEATS_AHEAD = 1000  # of the dataflow's process, which renewed the lease until now
_ENDINGS = {FencedError: ReplicatorState.FENCED, StateLostError: ReplicatorState.LOST}


def ending_of(
    config: ReplicatorConfig, error: StateError, parent_process: ParentProcess
) -> tuple[ReplicatorState, str]:
    """Say how a replicator ends that has met an error.

    :returns: The state, and the text that explains it.
    """
    try:
        if _has_to_be_renewed(config, error, parent_process):
            return ReplicatorState.EMPTIED, "Redis was emptied"
        explained = _explained(config, error)
    except EmptiedInPartError as in_part:
        explained = in_part
    # One line, as an operator wants it; the traceback says nothing that the error does not.
    logger.error("replicator stops generation=%d why=%s", config.generation, explained)
    endings = (state for kind, state in _ENDINGS.items() if isinstance(explained, kind))
    return next(endings, ReplicatorState.FAILED), str(explained)


def _has_to_be_renewed(
    config: ReplicatorConfig, error: StateError, parent_process: ParentProcess
) -> bool:
    """Tell a Redis that came back empty from one that lost less: the shards can fill it again.

    :raises EmptiedInPartError: If the manifest is gone, but other keys have not gone after it.
    """
    began: float | None = None
    while isinstance(error, StateLostError) and not parent_process.is_gone:
        try:
            return was_emptied(config)
        except ServerUnavailableError:
            parent_process.wait(MOST_SECONDS)
        except EmptiedInPartError:  # the nodes of a cluster are emptied one after the other
            began = began or time.monotonic()
            if time.monotonic() > began + _EMPTYING_SECONDS:
                raise
            parent_process.wait(LEAST_SECONDS)
        except StateError:  # then the first error says more
            return False
    return False


def _explained(config: ReplicatorConfig, error: StateError) -> StateError:
    """Tell keys that another start has deleted from keys that Redis lost."""
    if not isinstance(error, StateLostError):
        return error
    try:
        connection = ReplicatorConnection(config)
        with translated(connection.address):
            manifest = read_manifest(connection.client, config.keys)
    except StateError:  # then the first error says more
        return error
    if manifest is None or manifest.incarnation != config.incarnation:
        return error
    if manifest.generation < config.generation or manifest.token == config.token:
        return error
    return overtaken(config.token, str(manifest.token).encode())


class Replicator:
    """Ships one outbox.

    :arg config: What to ship, and where to.
    :arg outbox: Where the rows are; its owner closes it.
    :arg heartbeat: Runs already.
    :arg parent_process: The dataflow's.
    :raises ServerUnavailableError: If Redis is away.
    :raises StateLostError: If Redis lacks the partition, or rows that the outbox no longer has.
    """

    def __init__(
        self,
        config: ReplicatorConfig,
        outbox: Outbox,
        heartbeat: Heartbeat,
        parent_process: ParentProcess,
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._parent_process = parent_process
        self._lease_error: StateError | None = None
        connection = ReplicatorConnection(config)
        self._renewal = Renewal(config, connection) if config.snapshot_request else None
        self._shipper = Shipper(config, connection, outbox, self._renewal)
        self._pruner = Pruner(config, outbox)
        self._members = MemberWatch(config, connection)
        guard = FailoverGuard(config.failover_possible)
        self._confirmer = Confirmer(config, guard, lambda: self._shipper.row)
        self._checkpointer = Checkpointer(config, guard)
        lease = Lease.from_json(config.lease.encode())
        lease = replace(lease, beat=lease.beat + _BEATS_AHEAD, phase="running")
        self._lease = LeaseHolder(
            connection.client, connection.scripts, config.keys, lease, self._on_lease_error
        )
        self._file_watch = FileWatch(Path(config.outbox).parent, parent_process)
        heartbeat.follow(lambda: self._confirmer.row)

    def _on_lease_error(self, error: StateError) -> None:
        self._lease_error = self._lease_error or error

    def _require_threads(self) -> None:
        """Raise the error of a thread that has failed: the replicator can't do without it."""
        if self._lease_error is not None:
            raise self._lease_error
        for part in (self._checkpointer, self._confirmer, self._heartbeat):
            part.thread.require_sound()

    def run(self) -> ReplicatorState:
        """Ship until the dataflow has ended, then drain.

        :returns: How it ended.
        """
        try:
            # At once: a start that comes after a crash must not take this process for its member.
            with suppress(ServerError):
                self._lease.say("running")
            self._lease.start()
            self._confirmer.start()
            self._checkpointer.start()
            self._ship_until_orphaned()
            return self._drain()
        except StateError as error:
            return self._end(*ending_of(self._config, error, self._parent_process))

    def _end(self, state: ReplicatorState, text: str = "") -> ReplicatorState:
        self._checkpointer.stop()
        self._confirmer.stop()
        self._lease.stop(release=state is not ReplicatorState.EMPTIED)
        self._heartbeat.stop()
        self._show(state, text)
        self._file_watch.close()
        return state

    def _show(self, state: ReplicatorState, text: str = "") -> None:
        self._heartbeat.show(
            state=state,
            row=self._shipper.row,
            progress=self._shipper.progress,
            shipped=self._shipper.shipped,
            applied=self._checkpointer.applied,
            text=text,
        )

    # -- while the dataflow runs ----------------------------------------------------------

    def _ship_until_orphaned(self) -> None:
        backoff, version = Backoff(), -1
        while not self._parent_process.is_gone:
            self._require_threads()
            now = self._outbox.changed()
            try:
                moved = now != version and self._ship()
                if not self._shipper.has_committed:
                    self._members.look()
                if self._renewal is not None:
                    self._renewal.look()
            except ServerUnavailableError as error:
                self._show_away(error)
                self._parent_process.wait(backoff.next())
                continue
            backoff.reset()
            version = now if not moved else -1
            self._prune()
            self._show_running()
            if moved:
                self._file_watch.reset()
            else:
                self._file_watch.wait()

    def _ship(self) -> bool:
        before = self._shipper.row
        moved = self._shipper.ship()
        if self._shipper.row > before:
            self._pruner.note(self._shipper.row)
        elif self._shipper.row < before:
            self._confirmer.forget()
        return moved

    def _show_away(self, error: ServerUnavailableError) -> None:
        if self._heartbeat.status.state is not ReplicatorState.AWAY:
            logger.warning("redis away why=%s", error)
        self._show(ReplicatorState.AWAY, str(error))

    def _show_running(self) -> None:
        if self._heartbeat.status.state is ReplicatorState.AWAY:
            logger.warning("redis back backlog=%d", self._shipper.backlog)
        self._show(ReplicatorState.RUNNING)

    def _prune(self) -> None:
        if not self._pruner.is_due:
            return
        if self._shipper.has_committed:
            self._pruner.forget_restored()
        if (
            self._renewal is None or self._renewal.is_done
        ):  # a replicator that is restarted has to find the answers
            self._pruner.prune(self._confirmer.row, self._heartbeat.status.spare)

    # -- after the dataflow ---------------------------------------------------------------

    def _drain(self) -> ReplicatorState:
        """Ship what is left, fold once more, give the lease back: bounded by the drain timeout."""
        deadline = time.monotonic() + self._config.drain_timeout
        self._show(ReplicatorState.DRAINING)
        with suppress(ServerUnavailableError):
            self._lease.say("draining")
        last_steps = LastSteps(
            self._config, self._checkpointer, self._confirmer, self._renewal, self._require_threads
        )
        while True:
            self._require_threads()
            try:
                while self._ship():
                    self._show(ReplicatorState.DRAINING)
                self._checkpointer.stop()
                self._require_threads()
                last_steps.take(self._shipper.row, deadline)
            except ServerUnavailableError as error:
                if time.monotonic() > deadline:
                    text = f"{self._shipper.backlog} rows not shipped: {error}"
                    return self._end(ReplicatorState.UNDRAINED, text)
                self._show(ReplicatorState.DRAINING, str(error))
                time.sleep(LEAST_SECONDS)
            else:
                return self._end(ReplicatorState.DRAINED)
