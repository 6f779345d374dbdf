"""A run of a flow with its state in Redis: resume, run, replicate, drain.

Invariant: the engine starts only when a replicator works, from an outbox that holds the whole
state before the resume epoch; and whatever ends the run, what was committed is shipped.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

import redis
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.recovery import RecoveryConfig, init_db_dir

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RecoverySettings, RedisConfig, redis_url_from_env
from bytewax_redis_state.dataflow.rewrite import shard_stateful_steps
from bytewax_redis_state.dataflow.steps import StateStep, listed_partitions, state_steps
from bytewax_redis_state.errors import ConfigError, StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.cluster import (
    ClusterShape,
    read_manifest,
    wait_for_coordinator,
    wait_for_manifest,
    wait_for_members,
)
from bytewax_redis_state.recovery.lease import Lease, LeaseHolder, claim, this_owner
from bytewax_redis_state.recovery.manifest import Manifest
from bytewax_redis_state.recovery.outbox import Stamp, part_file, prepare, require_sqlite
from bytewax_redis_state.recovery.plan import plan_start
from bytewax_redis_state.recovery.replicator import Setup
from bytewax_redis_state.recovery.restore import Restorer
from bytewax_redis_state.recovery.scratch import Scratch, open_scratch
from bytewax_redis_state.recovery.takeover import (
    known_or_founded,
    reached,
    require_partitions,
    take_over,
)
from bytewax_redis_state.recovery.watchdog import Watchdog
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.probe import probe, require_fit
from bytewax_redis_state.server.translation import translated

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "RedisRecovery",
    "Reporter",
    "Resumed",
    "Session",
]

logger = logging.getLogger(__name__)

EXIT_FAILED = 2
"""Exit code of a process that had to stop."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

_SCRIPT_TIMEOUT = timedelta(seconds=30)
_EPOCH_INTERVAL = timedelta(seconds=10)  # Bytewax's own default


class Reporter(Protocol):
    """Tells a person what a session does."""

    def say(self, line: str) -> None:
        """Show a line."""

    def warn(self, line: str) -> None:
        """Show a warning."""

    def progress(self, done: int, total: int) -> None:
        """Show how far a resume is, in state keys."""

    def resumed(self, resumed: Resumed) -> None:
        """Show what was resumed, when the engine is about to start."""

    def failed(self, error: StateError) -> None:
        """Show why this process of a cluster ends; it has no caller left to raise to."""


class _LogReporter:
    """Tells the log instead of a person."""

    def say(self, line: str) -> None:
        logger.info("%s", line)

    def warn(self, line: str) -> None:
        logger.warning("%s", line)

    def progress(self, done: int, total: int) -> None:
        logger.debug("resume done=%d total=%d", done, total)

    def resumed(self, resumed: Resumed) -> None:
        logger.info("resumed epoch=%d keys=%d", resumed.epoch, sum(resumed.keys.values()))

    def failed(self, error: StateError) -> None:
        logger.error("stopped why=%s", error)


@dataclass(frozen=True)
class Resumed:
    """What a run went on from.

    :arg epoch: First epoch of the run; 1 where nothing was ever committed.
    :arg keys: Short step name to number of state keys restored by this process.
    :arg seconds: How long the resume took, from the claim of the lease on.
    :arg generation: Number of the start.
    """

    epoch: int
    keys: Mapping[str, int]
    seconds: float
    generation: int


@dataclass(frozen=True)
class RedisRecovery:
    """Keep a flow's state in Redis instead of in local files.

    :arg redis: A URL, a :class:`RedisConfig`, or ``None``: then ``BYTEWAX_REDIS_URL`` counts, and
        without it an embedded server is started in ``./.bytewax-redis-state``. Recovery waits at
        least 30 s for a reply, also where the configuration says less: its scripts are long.
    :arg settings: Any field of :class:`RecoverySettings` by its name, such as ``namespace`` or
        ``checkpoint_interval``.
    :raises ConfigError: If a setting can't be right.
    """

    redis: RedisConfig | None
    settings: RecoverySettings
    reporter: Reporter = field(compare=False, repr=False)

    def __init__(
        self,
        redis: str | RedisConfig | None = None,
        *,
        reporter: Reporter | None = None,
        **settings: Any,
    ) -> None:
        url = redis or redis_url_from_env()
        config = RedisConfig(url=url) if isinstance(url, str) else url
        object.__setattr__(self, "redis", config)
        try:
            object.__setattr__(self, "settings", RecoverySettings(**settings))
        except TypeError as error:
            raise ConfigError(f"RedisRecovery: {error}", "see RecoverySettings") from None
        object.__setattr__(self, "reporter", reporter or _LogReporter())

    def session(
        self,
        flow: Dataflow,
        worker_count: int = 1,
        process_id: int = 0,
        process_count: int = 1,
        addresses: Sequence[str] = (),
    ) -> Session:
        """Prepare a run that the caller starts: a context manager.

        Entering it resumes the flow; ``session.flow`` and ``session.recovery_config`` go to
        ``run_main`` or ``cluster_main``; leaving it drains. All state is exact on resume; output
        since the last committed epoch is put out again.

        :arg flow: The user's flow; left untouched.
        :arg worker_count: Workers of this process.
        :arg process_id: Number of this process in the cluster.
        :arg process_count: Number of processes.
        :arg addresses: As given to Bytewax; keeps two clusters apart.
        :returns: The session.
        :raises ConfigError: If several processes are to share an embedded server.
        """
        if not 0 <= process_id < process_count or worker_count < 1:
            raise ConfigError(
                f"process {process_id} of {process_count} with {worker_count} workers",
                "process IDs count from 0, and each process has at least one worker",
            )
        if self.redis is None and process_count > 1:
            raise ConfigError(
                f"{process_count} processes can't share an embedded server",
                "give them all one --redis URL",
            )
        shape = ClusterShape(process_id, process_count, worker_count, tuple(addresses))
        return Session(self, flow, shape)

    def run(
        self,
        flow: Dataflow,
        *,
        epoch_interval: timedelta | None = None,
        workers_per_process: int = 1,
        process_id: int | None = None,
        addresses: Sequence[str] | None = None,
    ) -> Resumed:
        """Resume a flow, run it to its end, and drain.

        :arg flow: The user's flow; left untouched.
        :arg epoch_interval: Time between two commits; what a crash may replay.
        :arg workers_per_process: Workers of this process.
        :arg process_id: Number of this process, with ``addresses``.
        :arg addresses: Of all processes of the cluster, as Bytewax takes them.
        :returns: What the run went on from.
        :raises StateError: If it can't start, or has to stop.
        """
        session = self.session(
            flow, workers_per_process, process_id or 0, len(addresses or ()) or 1, addresses or ()
        )
        with session:
            _run_engine(
                session.flow,
                workers_per_process=workers_per_process,
                process_id=process_id,
                addresses=list(addresses) if addresses is not None else None,
                epoch_interval=epoch_interval or _EPOCH_INTERVAL,
                recovery_config=session.recovery_config,
            )
        return session.resumed


def _run_engine(flow: Dataflow, **options: Any) -> None:
    """Run the engine to its end; with one worker it wraps whatever stopped it, also Ctrl-C.

    :raises StateError: If one of ours is what stopped it, such as a state that can't be encoded.
    :raises KeyboardInterrupt: If a signal is.
    """
    try:
        cli_main(flow, **options)  # type: ignore[no-untyped-call]
    except BytewaxRuntimeError as error:
        for cause in _causes(error):
            if isinstance(cause, StateError | KeyboardInterrupt):
                raise cause from None
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


class Session:
    """One run of a flow; see :meth:`RedisRecovery.session`."""

    def __init__(self, recovery: RedisRecovery, flow: Dataflow, shape: ClusterShape) -> None:
        self._recovery = recovery
        self._settings = recovery.settings
        self._reporter = recovery.reporter
        self._shape = shape
        self._original = flow
        self._keys = FlowKeys(recovery.settings.namespace, flow.flow_id)
        self._stack = ExitStack()
        self._watchdog: Watchdog | None = None
        self._failure: StateError | None = None
        self._holder: LeaseHolder | None = None
        self._leaving = False
        self._seen: StateError | None = None
        self._hurried = False
        self.flow = flow
        self.recovery_config: RecoveryConfig | None = None
        self.resumed = Resumed(epoch=1, keys={}, seconds=0.0, generation=0)

    # -- entering -------------------------------------------------------------------------

    def __enter__(self) -> Session:
        steps = state_steps(self._original)
        if not steps:
            return self  # nothing to keep: stock without recovery
        try:
            with self._stack:
                self._enter(steps)
                self._stack = self._stack.pop_all()
        except KeyboardInterrupt:
            if self._failure is not None:  # it was our own thread that interrupted
                raise self._failure from None
            raise
        return self

    def _enter(self, steps: Sequence[StateStep]) -> None:
        require_sqlite()
        scratch = open_scratch(self._settings.scratch)
        self._stack.callback(scratch.remove)
        config = (self._recovery.redis or start_embedded()).patient(_SCRIPT_TIMEOUT)
        client = connect(config)
        self._stack.callback(client.close)
        with translated(config.address):
            for warning in require_fit(probe(client)):
                self._reporter.warn(warning)
            parts = {name: list(p) for name, p in listed_partitions(self._original).items()}
            self._preflight(client, steps, parts)
            started = time.monotonic()
            lease = self._claim(client, steps, parts)
            reached("claimed")
            manifest = self._start(client, steps, lease)
            self._require_members(manifest, lease)
            rows, restorer = self._restore(client, manifest, steps)
            partition = self._shape.process_id
            self._make_outbox(scratch, manifest, restorer)
        self._shard(manifest, steps)
        self.resumed = Resumed(
            manifest.resume_epoch, rows, time.monotonic() - started, manifest.generation
        )
        self._start_replicator(config, scratch, manifest, steps, partition)
        self.recovery_config = RecoveryConfig(  # type: ignore[no-untyped-call]
            str(scratch.folder), timedelta(0)
        )
        self._reporter.resumed(self.resumed)

    def _preflight(
        self, client: redis.Redis, steps: Sequence[StateStep], parts: Mapping[str, list[str]]
    ) -> None:
        """Refuse what can be refused before anything is written."""
        manifest = read_manifest(client, self._keys)
        if manifest is None:
            return
        plan = plan_start(manifest, steps, parts, self._settings)
        if self._shape.process_count == 1:  # the others' partitions are not known yet
            require_partitions(client, self._keys, plan, manifest.shards)

    def _claim(
        self, client: redis.Redis, steps: Sequence[StateStep], parts: Mapping[str, list[str]]
    ) -> Lease:
        cluster = self._shape.digest(repr([step.step_id for step in steps]))
        lease = this_owner(self._shape.process_id, cluster, parts)
        scripts = Scripts(client)
        if self._shape.process_id > 0:
            wait_for_coordinator(
                client, self._keys, cluster, self._settings.join_timeout, self._reporter.say
            )
        claim(
            scripts,
            self._keys,
            lease,
            take_over=self._settings.take_over,
            say=self._reporter.say,
        )
        self._holder = LeaseHolder(client, self._keys, lease, self._fail).start()
        self._stack.callback(self._release_lease)
        return lease

    def _release_lease(self) -> None:
        # A second Ctrl-C is not to wait for a Redis that hangs; the owner is seen to be dead.
        if self._holder is not None:
            self._holder.stop(release=not self._hurried)

    def _start(self, client: redis.Redis, steps: Sequence[StateStep], lease: Lease) -> Manifest:
        timeout = self._settings.join_timeout
        if self._shape.process_id > 0:
            return wait_for_manifest(client, self._keys, lease, timeout)
        members = wait_for_members(
            client, self._keys, lease, self._shape.process_count, timeout, self._reporter.say
        )
        reached("joined")
        parts: dict[str, list[str]] = {}
        for member in members:
            for name, listed in member.parts.items():
                parts.setdefault(name, []).extend(p for p in listed if p not in parts.get(name, []))
        scripts = Scripts(client)
        manifest = known_or_founded(
            client, scripts, self._keys, os.urandom(16).hex(), self._settings.shards
        )
        plan = plan_start(manifest, steps, parts, self._settings)
        require_partitions(client, self._keys, plan, manifest.shards)
        ids = [member.id for member in members]
        return take_over(client, scripts, self._keys, manifest, plan, ids, _versions())

    def _require_members(self, manifest: Manifest, lease: Lease) -> None:
        if manifest.processes[self._shape.process_id] != lease.id or self._failure is not None:
            raise self._failure or ConfigError(
                f"the manifest has another process {self._shape.process_id}",
                "give each process of the cluster its own -i",
            )

    def _names(self, manifest: Manifest) -> dict[str, str]:
        return {entry.step_id: name for name, entry in manifest.steps.items()}

    def _engine_steps(
        self, manifest: Manifest, steps: Sequence[StateStep]
    ) -> dict[str, tuple[str, str]]:
        """Engine step ID to short name and kind."""
        names = self._names(manifest)
        return {step.engine_id: (names[step.step_id], step.kind) for step in steps}

    def _restore(
        self, client: redis.Redis, manifest: Manifest, steps: Sequence[StateStep]
    ) -> tuple[dict[str, int], Restorer]:
        shape = self._shape
        mine = frozenset(
            shard
            for shard in range(manifest.shards)
            if shard % shape.workers // shape.worker_count == shape.process_id
        )
        engine_ids = {
            name: engine_id for engine_id, (name, _) in self._engine_steps(manifest, steps).items()
        }
        restorer = Restorer(
            client,
            self._keys,
            manifest,
            mine,
            shape.workers,
            engine_ids,
            self._reporter.progress,
        )
        return restorer.read(), restorer

    def _make_outbox(self, scratch: Scratch, manifest: Manifest, restorer: Restorer) -> None:
        scratch.require_room(2 * restorer.size)
        count, own = self._shape.process_count, self._shape.process_id
        init_db_dir(str(scratch.folder), count)  # type: ignore[no-untyped-call]
        for partition in range(count):
            if partition != own:  # the other processes make those
                for file in scratch.folder.glob(f"{part_file(Path(), partition).name}*"):
                    file.unlink()
        prepare(
            part_file(scratch.folder, own),
            Stamp(manifest.incarnation, manifest.generation, own),
            execution=manifest.generation if own == 0 else None,
            resume_epoch=manifest.resume_epoch,
            restored=restorer.rows(),
        )

    def _shard(self, manifest: Manifest, steps: Sequence[StateStep]) -> None:
        self.flow = shard_stateful_steps(
            self._original,
            shards=manifest.shards,
            workers=self._shape.workers,
            codec=Codec(allow_pickle=self._settings.allow_pickle, on_error=self._witness),
            namespace=self._settings.namespace,
            names=self._names(manifest),
        )

    def _start_replicator(
        self,
        config: RedisConfig,
        scratch: Scratch,
        manifest: Manifest,
        steps: Sequence[StateStep],
        partition: int,
    ) -> None:
        assert self._holder is not None
        setup = Setup(
            url=config.url,
            connect_timeout=config.connect_timeout.total_seconds(),
            script_timeout=config.read_timeout.total_seconds(),
            namespace=self._settings.namespace,
            flow_id=self._keys.flow_id,
            incarnation=manifest.incarnation,
            generation=manifest.generation,
            partition=partition,
            partitions=manifest.partitions,
            resume_epoch=manifest.resume_epoch,
            shards=manifest.shards,
            steps=self._engine_steps(manifest, steps),
            outbox=str(part_file(scratch.folder, partition)),
            status=str(scratch.folder / "status"),
            checkpoint_interval=self._settings.checkpoint_interval.total_seconds(),
            drain_timeout=self._settings.drain_timeout.total_seconds(),
            lease=replace(self._holder.lease, phase="running").to_json(),
        )
        self._watchdog = Watchdog(setup, scratch.lock, self._fail)
        self._stack.callback(self._watchdog.kill)
        self._watchdog.start()
        # From here on the replicator renews the lease.
        self._holder.stop(release=False)
        self._watch_signals()

    # -- stopping -------------------------------------------------------------------------

    def _fail(self, error: StateError) -> None:
        """Stop the dataflow: from a thread of ours, by the way Ctrl-C takes."""
        self._failure = error
        _thread.interrupt_main()

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
        code = EXIT_INTERRUPTED if self._failure is None else EXIT_FAILED
        for error in filter(None, (self._failure, undrained)):
            self._reporter.failed(error)
        with suppress(StateError):  # the next start removes what is left
            self._stack.close()
        sys.stdout.flush()
        os._exit(code)

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
            undrained = self._drain()
        # The engine of a cluster says "thread panic" whatever the reason was.
        stopped = self._failure or _cause_of(error) or (error and self._seen)
        if stopped is not None and stopped is not error:
            raise stopped from error
        if undrained is not None:
            if error is None:
                raise undrained
            self._reporter.warn(str(undrained))

    def _drain(self) -> StateError | None:
        if self._watchdog is None:
            return None
        self._watchdog.disarm()
        if self._failure is not None:
            return None
        try:
            return self._watchdog.drain(self._settings.drain_timeout.total_seconds() + 10)
        except KeyboardInterrupt:  # a second Ctrl-C: the stack kills the replicator at once
            self._hurried = True
            raise


def _cause_of(error: BaseException | None) -> BaseException | None:
    """Find what stopped the engine: it wraps our errors and Ctrl-C in errors of its own."""
    while error is not None and not isinstance(error, (StateError, KeyboardInterrupt)):
        error = error.__cause__
    return error


def _versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    packages = ("bytewax", "bytewax-redis-state", "redis", "msgpack")
    return {"python": python, **{name: version(name) for name in packages}}
