"""A run of a flow with its state in Redis: resume, run, replicate, drain.

Invariant: the engine starts only when a replicator works, from an outbox that holds the whole
state before the resume epoch; and whatever ends the run, what was committed is shipped.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from types import FrameType, TracebackType
from typing import NoReturn

import redis
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RecoverySettings, RedisConfig
from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.dataflow.connectors.gate import Gate
from bytewax_redis_state.dataflow.retention import lifetimes
from bytewax_redis_state.dataflow.rewrite import shard_stateful_steps
from bytewax_redis_state.dataflow.shards.deadlines import FlowClock
from bytewax_redis_state.dataflow.shards.handover import Handover
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.dataflow.steps import StateStep, listed_partitions, state_steps
from bytewax_redis_state.errors import (
    ConfigError,
    FencedError,
    JoinTimeoutError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.flow_status import FlowStatus, enter
from bytewax_redis_state.recovery.interrupts import Interrupts
from bytewax_redis_state.recovery.outbox.outbox import part_file, require_sqlite
from bytewax_redis_state.recovery.outbox.scratch import Scratch, open_scratch
from bytewax_redis_state.recovery.records.lease import Lease, LeaseHolder, claim, this_owner
from bytewax_redis_state.recovery.records.manifest import Manifest
from bytewax_redis_state.recovery.replicator.backpressure import Backpressure, default_lag
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.renewal import leave_roll
from bytewax_redis_state.recovery.replicator.status import Status
from bytewax_redis_state.recovery.replicator.watchdog import Watchdog, spawn
from bytewax_redis_state.recovery.reporter import Reporter, Resumed
from bytewax_redis_state.recovery.start.join_barrier import (
    ClusterShape,
    taken_over,
    wait_for_coordinator,
)
from bytewax_redis_state.recovery.start.steps import Resume
from bytewax_redis_state.recovery.start.takeover import reached
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.credentials import name_of
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.probe import probe_all, require_durability, require_fit
from bytewax_redis_state.server.replicas import may_go_back
from bytewax_redis_state.server.translation import translated

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "MARGIN_SECONDS", "Session"]

logger = logging.getLogger(__name__)

EXIT_FAILED = 2
"""Exit code of a process that had to stop."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

MARGIN_SECONDS = 60.0
"""How long an outbox keeps rows that Redis has: what a lost tail of Redis is sent again from."""

_SCRIPT_TIMEOUT = timedelta(seconds=30)
_STOP_SECONDS = 5.0  # for the engine to heed an interrupt
_STOP_TRIES = 6
_DRAIN_GRACE = 10.0  # the replicator gives up by itself; this is for one that hangs


class Session:
    """One run of a flow, as a context manager; made by ``RedisRecovery.session``.

    :arg config: Where Redis is; ``None`` starts the embedded server.
    :arg settings: How the state is kept.
    :arg reporter: Gets lines, progress and what was resumed.
    :arg flow: The user's; left untouched.
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
        self._reporter = reporter
        self._shape = shape
        self._original = flow
        self._keys = FlowKeys(settings.namespace, flow.flow_id)
        self._stack = ExitStack()
        self._watchdog: Watchdog | None = None
        self._spare: subprocess.Popen[bytes] | None = None
        self._gate = Gate()
        self._roll = SnapshotRequests()
        self._handover = Handover()
        self._backpressure: Backpressure | None = None
        self._folder = settings.scratch
        self._holder: LeaseHolder | None = None
        self._codec = Codec.of_flow(settings, self._witness)
        self._failure: StateError | None = None
        self._seen: StateError | None = None
        self._engine_may_run = False
        self._stopping = threading.Event()
        self._interrupts = Interrupts(self._stopping)
        self._leaving = False
        self._hurried = False
        self.flow = flow
        self.recovery_config: RecoveryConfig | None = None
        self.resumed = Resumed(epoch=1, keys={}, seconds=0.0, generation=0)

    # -- entering -------------------------------------------------------------------------

    def __enter__(self) -> Session:
        steps = state_steps(self._original)
        kept = lifetimes(self._original, self._settings.retention, self._settings.window_grace)
        if not steps:
            return self  # nothing to keep: stock without recovery
        try:
            with self._stack:
                self._stack.enter_context(self._interrupts)
                self._enter(steps, kept)
                self._interrupts.require_none()
                self._stack = self._stack.pop_all()
        except KeyboardInterrupt:
            if self._failure is not None:  # it was our own thread that interrupted
                raise self._failure from None
            raise
        return self

    def _enter(self, steps: Sequence[StateStep], kept: Mapping[str, timedelta]) -> None:
        require_sqlite()
        scratch = open_scratch(self._settings.scratch)
        self._stack.callback(scratch.remove)
        config = (self._config or start_embedded()).patient(_SCRIPT_TIMEOUT)
        client = connect(config)
        self._stack.callback(client.close)
        with translated(config.address):
            for info in probe_all(client):
                for warning in require_fit(info):
                    self._reporter.warn(warning)
                require_durability(info, Durability.parse(self._settings.durability))
            parts = {name: list(p) for name, p in listed_partitions(self._original).items()}
            resume = Resume(
                client, self._keys, self._settings, self._shape, steps, parts, kept, self._reporter
            )
            manifest = self._resume(resume, client, steps, scratch)
            clock = FlowClock(resume.flow_time(manifest))
            guarded = may_go_back(client)
        self._shard(manifest, clock)
        self._start_replicator(
            config, scratch, manifest, resume.engine_steps(manifest), guarded=guarded
        )
        self.recovery_config = RecoveryConfig(  # type: ignore[no-untyped-call]
            str(scratch.folder), timedelta(0)
        )
        self._stack.callback(enter(self._vitals))
        self._reporter.resumed(self.resumed)

    def _resume(
        self,
        resume: Resume,
        client: redis.Redis,
        steps: Sequence[StateStep],
        scratch: Scratch,
    ) -> Manifest:
        resume.preflight()
        started = time.monotonic()
        lease = self._claim(client, steps, resume.parts)
        reached("claimed")
        # It takes as long to come up as a hundred thousand keys to read.
        self._spare = spawn(scratch.lock)
        self._stack.callback(self._end_spare)
        try:
            manifest = resume.start(lease)
            self._require_own(manifest, lease)
            keys, expired, restorer = resume.restore(manifest, self._codec, self._handover)
        except (FencedError, StateLostError, JoinTimeoutError) as error:
            raise taken_over(client, self._keys, lease) or error from None
        resume.make_outbox(scratch, manifest, restorer)
        seconds = time.monotonic() - started
        self.resumed = Resumed(manifest.resume_epoch, keys, seconds, manifest.generation, expired)
        return manifest

    def _end_spare(self) -> None:
        """End what has not become a replicator; one that has, has ended."""
        if self._spare is not None:
            self._spare.kill()
            self._spare.wait()

    def _claim(
        self, client: redis.Redis, steps: Sequence[StateStep], parts: Mapping[str, list[str]]
    ) -> Lease:
        # A fast path's shards take their items in another form.
        how = ([step.step_id for step in steps], self._settings.fast_paths)
        cluster = self._shape.digest(repr(how))
        lease = this_owner(self._shape.process_id, cluster, parts)
        say = self._reporter.say
        if self._shape.process_id > 0:
            wait_for_coordinator(client, self._keys, cluster, self._settings.join_timeout, say)
        # Known before it is claimed: Ctrl-C in between would leave it to expire.
        self._holder = LeaseHolder(client, self._keys, lease, self._fail)
        self._stack.callback(self._release_lease)
        take_over = self._settings.take_over
        claim(Scripts(client), self._keys, lease, take_over=take_over, say=say)
        self._holder.start()
        return lease

    def _release_lease(self) -> None:
        # A second Ctrl-C is not to wait for a Redis that hangs; the owner is seen to be dead.
        if self._holder is not None:
            self._holder.stop(release=not self._hurried)

    def _require_own(self, manifest: Manifest, lease: Lease) -> None:
        if self._failure is not None:
            raise self._failure
        if manifest.processes[self._shape.process_id] != lease.id:
            raise ConfigError(
                f"the manifest has another process {self._shape.process_id}",
                "give each process of the cluster its own -i",
            )

    def _shard(self, manifest: Manifest, clock: FlowClock) -> None:
        self.flow = shard_stateful_steps(
            self._original,
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
            roll=self._roll,
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
        guarded: bool,
    ) -> None:
        assert self._holder is not None
        partition = self._shape.process_id
        setup = ReplicatorConfig(
            url=config.url,
            credentials=name_of(config.credentials),
            path=[str(place) for place in sys.path],
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
            lease=replace(self._holder.lease, phase="running").to_json(),
            manifest=manifest.to_fields(),
            stamp=(manifest.incarnation, manifest.generation),
            guarded=guarded,
        )
        self._folder = scratch.folder
        max_lag = self._settings.max_lag or default_lag(scratch.folder)
        self._backpressure = Backpressure(self._gate, scratch.folder, max_lag, self._reporter.warn)
        self._watchdog = Watchdog(setup, scratch.lock, self._fail, self._heed, self._spare)
        self._stack.callback(self._watchdog.kill)
        self._watchdog.start()
        # From here on the replicator renews the lease.
        self._holder.stop(release=False)
        self._watch_signals()
        self._engine_may_run = True

    def _heed(self, status: Status) -> StateError | None:
        """Do what the replicator's status asks for: hold the sources, or call the shards."""
        assert self._backpressure is not None
        self._interrupts.remind()
        if status.call > self._roll.number:
            leave_roll(self._folder, status.call, self._roll.call(status.call))
            self._reporter.warn("Redis came back empty: its state is built anew from memory")
        return self._backpressure.heed(status)

    def _vitals(self) -> FlowStatus:
        assert self._watchdog is not None
        return FlowStatus(
            flow=self._keys.flow_id,
            process=self._shape.process_id,
            status=self._watchdog.status,
            held=self._gate.is_closed,
            restarts=self._watchdog.restarts,
            resumed=self.resumed,
        )

    # -- stopping -------------------------------------------------------------------------

    def _fail(self, error: StateError) -> None:
        """Stop the dataflow: from a thread of ours, by the way Ctrl-C takes."""
        self._failure = error
        # The flow's own code may swallow an interrupt, or wait in a call that none breaks; and an
        # engine that waits for the others of its cluster to connect heeds none at all.
        for _ in range(_STOP_TRIES if self._shape.process_count == 1 else 1):
            # A real signal: it breaks a sleep too, which interrupt_main() would not.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if not self._engine_may_run or self._stopping.wait(_STOP_SECONDS):
                return
        self._tell(error)
        os._exit(EXIT_FAILED)

    def _tell(self, *errors: StateError | None) -> None:
        """Report what ends this process, from where an exception would keep it from ending."""
        try:
            for error in filter(None, errors):
                self._reporter.failed(error)
        except Exception:
            # The reporter is the caller's.
            logger.exception("the reporter failed")

    def _witness(self, error: StateError) -> None:
        self._seen = self._seen or error

    def _watch_signals(self) -> None:
        """Handle interrupts ourselves where the engine can't.

        An interrupted process of a cluster waits for the others for ever, and they for it. Its end
        makes them end at once, so it drains here, in the handler, and is gone.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._shape.process_count == 1 or not in_main_thread:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, self._leave_cluster)
            self._stack.callback(signal.signal, number, before)

    def _leave_cluster(self, number: int, frame: FrameType | None) -> NoReturn:
        assert self._watchdog is not None
        if self._leaving:
            self._watchdog.kill()
            os._exit(EXIT_INTERRUPTED)
        self._leaving = True
        undrained = self._drain()
        self._tell(self._failure, undrained)
        with suppress(StateError):  # the next start removes what is left
            self._stack.close()
        with suppress(OSError, ValueError):  # whoever reads it may be gone, or it was closed
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED if self._failure is None else EXIT_FAILED)

    # -- leaving --------------------------------------------------------------------------

    @property
    def replicator_pid(self) -> int | None:
        """Process ID of the replicator, ``None`` where the flow has no state."""
        return self._watchdog.pid if self._watchdog is not None else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack:
            full = self._full_disk(error)
            undrained = self._drain()
        # The engine of a cluster says "thread panic" whatever the reason was.
        stopped = self._failure or full or _cause_of(error) or (error and self._seen)
        if stopped is None and _is_panic(error) and isinstance(undrained, FencedError):
            stopped = undrained  # the others of the cluster knew before, and their end is the panic
        if stopped is not None and stopped is not error:
            raise stopped from error
        if undrained is not None:
            if error is None:
                raise undrained
            self._reporter.warn(str(undrained))

    def _full_disk(self, error: BaseException | None) -> StateError | None:
        """Tell whether the engine may have met a full disk: it says "thread panic" then."""
        if error is None or self._backpressure is None or self._watchdog is None:
            return None
        return self._backpressure.full_disk(self._watchdog.status)

    def _drain(self) -> StateError | None:
        self._stopping.set()
        if self._watchdog is None:
            return None
        self._watchdog.disarm()
        if self._failure is not None:
            return None
        try:
            return self._watchdog.drain(self._settings.drain_timeout.total_seconds() + _DRAIN_GRACE)
        except KeyboardInterrupt:  # a second Ctrl-C: the stack kills the replicator at once
            self._hurried = True
            raise


def _is_panic(error: BaseException | None) -> bool:
    """Tell the engine's own end from an error of the flow's code, and from an interrupt."""
    return error is not None and not isinstance(error, (Exception, KeyboardInterrupt, SystemExit))


def _cause_of(error: BaseException | None) -> BaseException | None:
    """Find what stopped the engine: it wraps our errors and Ctrl-C in errors of its own."""
    while error is not None and not isinstance(error, (StateError, KeyboardInterrupt)):
        error = error.__cause__
    return error
