"""Session: one run of a flow with its state in Redis, from its resume to its drain.

Invariant: the engine starts only when a replicator works, from an outbox that holds the whole
state before the resume epoch; and whatever ends the run, committed rows are shipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType

import redis
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RecoverySettings, RedisConfig
from bytewax_redis_state.dataflow.connectors.gate import Gate
from bytewax_redis_state.dataflow.retention import lifetimes
from bytewax_redis_state.dataflow.rewrite import shard_stateful_steps
from bytewax_redis_state.dataflow.shards.flow_clock import FlowClock
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.dataflow.steps import StateStep, listed_partitions, state_steps
from bytewax_redis_state.errors import ConfigError, StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.child_processes import in_each_child
from bytewax_redis_state.recovery.flow_status import FlowStatus, register
from bytewax_redis_state.recovery.outbox.outbox import part_file, require_sqlite
from bytewax_redis_state.recovery.outbox.scratch import Scratch, open_scratch
from bytewax_redis_state.recovery.records.lease import Lease, LeaseHolder
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.replicator.backpressure import Backpressure, default_lag
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.renewal import write_shard_count
from bytewax_redis_state.recovery.replicator.status import Status
from bytewax_redis_state.recovery.replicator.watchdog import ReplicatorProcess, Watchdog, spawn
from bytewax_redis_state.recovery.reporter import GuardedReporter, Reporter, Resumed
from bytewax_redis_state.recovery.sightings import Sighting, Sightings, sighting_of
from bytewax_redis_state.recovery.start.join_barrier import ClusterShape
from bytewax_redis_state.recovery.start.process_start import FlowSteps, ProcessStart, SessionParts
from bytewax_redis_state.recovery.start.steps import start_flow
from bytewax_redis_state.recovery.stopping import Stopping, raise_reason
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect, flow_connection_name
from bytewax_redis_state.server.credentials import name_of
from bytewax_redis_state.server.embedded import DIRECTORY, start_embedded
from bytewax_redis_state.server.translation import translated

__all__ = ["MARGIN_SECONDS", "Session"]

MARGIN_SECONDS = 60.0
"""How long an outbox keeps rows that Redis has: where Redis loses its last writes, they are sent
again from there."""

_SCRIPT_TIMEOUT = timedelta(seconds=30)
_KILL_SECONDS = 2.0


class Session:
    """One run of a flow, as a context manager; made by ``RedisRecovery.session``.

    :arg config: Where Redis is; ``None`` starts the embedded server.
    :arg settings: How the state is kept.
    :arg reporter: Gets lines, the progress of the resume, and its result.
    :arg flow: The user's flow; left untouched.
    :arg shape: Which process this is, of how many.
    """

    def __init__(
        self,
        config: RedisConfig | None,
        settings: RecoverySettings,
        reporter: Reporter,
        flow: Dataflow,
        shape: ClusterShape,
    ) -> None:
        self._config = config
        self._settings = settings
        self._reporter = GuardedReporter(reporter)
        self._shape = shape
        self._user_flow = flow
        self._keys = FlowKeys(settings.namespace, flow.flow_id)
        self._stack = ExitStack()
        self._watchdog: Watchdog | None = None
        self._replicator_process: ReplicatorProcess | None = None
        self._gate = Gate()
        self._snapshot_requests = SnapshotRequests()
        self._handover = Handover()
        self._backpressure: Backpressure | None = None
        self._folder = settings.scratch
        self._sightings = Sightings(settings.scratch if config else DIRECTORY.absolute())
        self._lease_holder: LeaseHolder | None = None
        self._scratch: Scratch | None = None
        self._stopping = Stopping(self._reporter, shape.process_count, settings.drain_timeout)
        self._codec = Codec.of_flow(settings, self._stopping.note_codec_error)
        self._is_entered = False
        self._pid = os.getpid()
        self._flow = flow
        self._recovery_config: RecoveryConfig | None = None
        self.resumed = Resumed(epoch=1, keys={}, seconds=0.0, generation=0)

    # -- entering -------------------------------------------------------------------------

    def __enter__(self) -> Session:
        steps = state_steps(self._user_flow)
        kept = lifetimes(self._user_flow, self._settings.retention, self._settings.window_grace)
        if steps:  # else there is nothing to keep: the flow runs without recovery, as in stock
            _require_main_thread()
            try:
                with self._stack:
                    self._stack.enter_context(self._stopping.interrupts)
                    self._enter(steps, kept)
                    self._stopping.interrupts.require_none()
                    self._stack = self._stack.pop_all()
            except KeyboardInterrupt:
                if self._stopping.failure is not None:  # a thread of ours has interrupted
                    raise self._stopping.failure from None
                raise
        self._is_entered = True
        return self

    def _enter(self, steps: Sequence[StateStep], kept: Mapping[str, timedelta]) -> None:
        require_sqlite()
        left: list[Sighting | None] = []
        scratch = open_scratch(self._settings.scratch, lambda at: left.append(sighting_of(at)))
        self._stack.callback(self._leave, scratch)
        self._scratch = scratch
        config = (self._config or start_embedded()).patient(_SCRIPT_TIMEOUT)
        for sighting in left:
            self._sightings.note(sighting)
        client = connect(config, flow_connection_name(self._keys.namespace, self._keys.flow_id))
        self._stack.callback(client.close)
        self._stack.callback(in_each_child(client.connection_pool.reset))
        parts = {name: list(p) for name, p in listed_partitions(self._user_flow).items()}
        process = ProcessStart(
            client,
            self._keys,
            self._settings,
            self._shape,
            FlowSteps(steps, parts, kept),
            SessionParts(
                self._reporter,
                self._codec,
                self._handover,
                scratch,
                lease_holder=partial(self._make_lease_holder, client),
                spawn_replicator=partial(self._spawn_replicator, scratch),
                require_running=self._require_running,
                start_replicator=lambda manifest: self._launch(config, scratch, process, manifest),
            ),
        )
        with translated(config.address), process.naming_new_owner():
            start_flow(process)
        self.resumed = process.resumed
        self._recovery_config = RecoveryConfig(  # type: ignore[no-untyped-call]
            str(scratch.folder), timedelta(0)
        )
        self._stack.callback(register(self._status))
        self._reporter.resumed(self.resumed)

    def _spawn_replicator(self, scratch: Scratch) -> None:
        self._replicator_process = spawn(scratch.lock)
        self._stack.callback(self._end_replicator_process)

    def _end_replicator_process(self) -> None:
        """End a process that never became the replicator; a replicator that drained has ended."""
        if self._replicator_process is not None:
            self._replicator_process.kill()
            # Within a bound: this runs in signal handlers, too.
            with suppress(subprocess.TimeoutExpired):
                self._replicator_process.wait(_KILL_SECONDS)
            self._replicator_process.end_input()

    def _make_lease_holder(
        self, client: redis.Redis, scripts: Scripts, lease: Lease
    ) -> LeaseHolder:
        self._lease_holder = LeaseHolder(client, scripts, self._keys, lease, self._stopping.fail)
        self._stack.callback(self._release_lease)
        return self._lease_holder

    def _require_running(self) -> None:
        if self._stopping.failure is not None:
            raise self._stopping.failure

    def _launch(
        self, config: RedisConfig, scratch: Scratch, process: ProcessStart, manifest: Manifest
    ) -> None:
        """Shard the flow, and start the replicator of its outbox."""
        self._warn_of_older_redis(manifest)
        self._shard(manifest, FlowClock(process.flow_time(manifest)))
        self._start_replicator(
            config,
            scratch,
            manifest,
            process.engine_steps(manifest),
            failover_possible=process.failover_possible(),
        )

    def _leave(self, scratch: Scratch) -> None:
        """Remove the scratch folder, and keep how far Redis has said that the flow is."""
        self._sightings.note(sighting_of(scratch.folder))
        scratch.remove()

    def _warn_of_older_redis(self, manifest: Manifest) -> None:
        seen, epoch = self._sightings.epoch(manifest.incarnation), manifest.resume_epoch
        if epoch < seen:
            self._reporter.warn(
                f"Redis has gone back: it had committed the flow up to epoch {seen - 1}, and "
                f"resumes it at epoch {epoch}; what came since is read and put out again"
            )
            self._sightings.note(Sighting(manifest.incarnation, epoch), went_back=True)

    def _release_lease(self) -> None:
        # A second Ctrl-C must not wait for a Redis that hangs: the next start on this host sees
        # that the owner of the lease is dead.
        if self._lease_holder is not None:
            self._lease_holder.stop(release=not self._stopping.was_interrupted_twice)

    def _shard(self, manifest: Manifest, clock: FlowClock) -> None:
        self._flow = shard_stateful_steps(
            self._user_flow,
            shards=manifest.shards,
            workers=self._shape.workers,
            codec=self._codec,
            namespace=self._settings.namespace,
            names=manifest.names,
            # As the manifest has it, so that all processes of a cluster agree.
            retention={
                manifest.steps[name].step_id: timedelta(milliseconds=kept)
                for name, kept in manifest.retention.items()
            },
            flow_time=clock,
            gate=self._gate,
            snapshot_requests=self._snapshot_requests,
            handover=self._handover,
            fast_paths=self._settings.fast_paths,
        )

    def _start_replicator(
        self,
        config: RedisConfig,
        scratch: Scratch,
        manifest: Manifest,
        steps: Mapping[str, tuple[str, str]],
        *,
        failover_possible: bool,
    ) -> None:
        assert self._lease_holder is not None
        partition = self._shape.process_id
        replicator_config = ReplicatorConfig(
            url=config.url,
            credentials=name_of(config.credentials),
            path=[str(folder) for folder in sys.path],
            connect_timeout=config.connect_timeout.total_seconds(),
            script_timeout=config.read_timeout.total_seconds(),
            namespace=self._settings.namespace,
            flow_id=self._keys.flow_id,
            incarnation=manifest.incarnation,
            generation=manifest.generation,
            start=manifest.start,
            partition=partition,
            partitions=manifest.partitions,
            resume_epoch=manifest.resume_epoch,
            shards=manifest.shards,
            steps=steps,
            timed=sorted(manifest.retention),
            offset=manifest.offset,
            outbox=str(part_file(scratch.folder, partition)),
            status=str(scratch.folder / "status"),
            checkpoint_interval=self._settings.checkpoint_interval.total_seconds(),
            drain_timeout=self._settings.drain_timeout.total_seconds(),
            margin=MARGIN_SECONDS,
            durability=self._settings.durability,
            lease=replace(self._lease_holder.lease, phase="running").to_json(),
            manifest=manifest.to_fields(),
            outbox_owner=(manifest.incarnation, manifest.generation),
            failover_possible=failover_possible,
            embedded=None if self._config else str(DIRECTORY.absolute()),
        )
        self._folder = scratch.folder
        max_lag = self._settings.max_lag or default_lag(scratch.folder)
        self._backpressure = Backpressure(
            self._gate, Path(replicator_config.outbox), max_lag, self._reporter.warn
        )
        self._watchdog = Watchdog(
            replicator_config,
            scratch.lock,
            self._stopping.fail,
            self._on_status,
            self._replicator_process,
        )
        self._stack.callback(self._watchdog.kill)
        self._watchdog.start()
        # From here on the replicator renews the lease.
        self._lease_holder.stop(release=False)
        self._stopping.engine_starts(
            self._watchdog, self._backpressure, lambda: self._stack.close()
        )

    # -- while the engine runs ------------------------------------------------------------

    def _on_status(self, status: Status) -> StateError | None:
        """Act on the replicator's status, in the watchdog's thread.

        :returns: Why the flow has to stop at once, or ``None``.
        """
        assert self._backpressure is not None
        self._stopping.interrupts.remind()
        if status.snapshot_request > self._snapshot_requests.latest:
            shards = self._snapshot_requests.send(status.snapshot_request)
            write_shard_count(self._folder, status.snapshot_request, shards)
            self._reporter.warn("Redis came back empty: the flow writes its state to it again")
        return self._backpressure.on_status(status)

    def _status(self) -> FlowStatus:
        assert self._watchdog is not None
        return FlowStatus(
            flow=self._keys.flow_id,
            process=self._shape.process_id,
            status=self._watchdog.status,
            held=self._gate.is_closed,
            restarts=self._watchdog.restarts,
            resumed=self.resumed,
        )

    @property
    def flow(self) -> Dataflow:
        """The rewritten flow, for the engine.

        :raises ConfigError: Outside of the session's ``with`` block.
        """
        self._require_entered("flow")
        return self._flow

    @property
    def recovery_config(self) -> RecoveryConfig | None:
        """The recovery configuration for the engine; ``None`` where the flow has no state.

        :raises ConfigError: Outside of the session's ``with`` block.
        :raises ScratchError: If others may have changed the outbox, which the engine reads.
        """
        self._require_entered("recovery_config")
        if self._scratch is not None:
            self._scratch.require_private()  # this is the last that we hear of before it reads
        return self._recovery_config

    def _require_entered(self, name: str) -> None:
        # Without ``with``, nothing is restored and nobody ships: the run would keep nothing.
        if not self._is_entered:
            raise ConfigError(
                f"session.{name} is read outside of the session's with block",
                "write: with recovery.session(flow) as session: …",
            )

    @property
    def replicator_pid(self) -> int | None:
        """Process ID of the replicator, ``None`` where the flow has no state."""
        return self._watchdog.pid if self._watchdog is not None else None

    # -- leaving --------------------------------------------------------------------------

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_entered = False
        if os.getpid() != self._pid:  # a child that the flow has forked: the run is its parent's
            self._stack.pop_all()
            return
        with self._stack:
            reason = self._stopping.end(error)
        if reason is not None and reason is not error:
            raise_reason(reason, error)


def _require_main_thread() -> None:
    """Refuse a run in another thread, where nothing could stop it.

    A run whose replicator is lost, or whose flow another start has taken over, must stop at once.
    Python lets only the main thread be interrupted, and the main thread is then the host's. Closing
    the gate instead would reach the flow only when its sources are next asked, which may be in an
    hour, and its outputs would go on meanwhile.
    """
    current = threading.current_thread()
    if current is not threading.main_thread():
        raise ConfigError(
            f"a flow with state can be stopped in the main thread only, and this is the thread "
            f"{current.name!r}",
            "run it in the main thread, or in a process of its own",
        )
