"""The system under test: a flow's processes, their supervisor, the network and the flow's Redis.

The supervisor works like an operator's: it starts a process again that has failed, and leaves the
other processes of its execution to notice. Invariant: every wait has a bound; a flow that does not
go on within it is a finding.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import cycle
from pathlib import Path

import redis

from bytewax_redis_state.chaos import input_events
from bytewax_redis_state.chaos.execution import Execution
from bytewax_redis_state.chaos.faketime import clock_environ, set_clock
from bytewax_redis_state.chaos.flow import FLOW_ID
from bytewax_redis_state.chaos.flow_process import FlowProcess
from bytewax_redis_state.chaos.input_limiter import InputLimiter
from bytewax_redis_state.chaos.network.ports import free_addresses
from bytewax_redis_state.chaos.network.proxy import Listener, Proxy
from bytewax_redis_state.chaos.schedule import FlowTopology
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.chaos.servers.own_server import OwnServer
from bytewax_redis_state.chaos.servers.server_group import ServerGroup
from bytewax_redis_state.chaos.servers.single_server import SingleServer
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import cells_of
from bytewax_redis_state.recovery.records.manifest import Manifest, read_manifest
from bytewax_redis_state.recovery.stopping import EXIT_FAILED

__all__ = [
    "GivenUpError",
    "Program",
    "RefusedError",
    "StuckError",
    "SystemUnderTest",
    "UnexpectedExit",
]

_MODULE_FLOW = "bytewax_redis_state.chaos.flow:flow"
_RATE = 400  # events of each source a second
_LAG = 0.04  # seconds by which requests and answers are held back, to keep rows unshipped
_EPOCH_SECONDS, _CHECKPOINT_SECONDS, _JOIN_SECONDS, _SHARDS = 0.1, 0.3, 25, 16
_POLL = 0.01
_FAST_PATH_TURNS = {"on": ("true",), "off": ("false",), "in-turn": ("true", "false")}
_LOOK_TIMEOUT = timedelta(seconds=3)  # for a look at a Redis that a fault has struck
_MOST_STARTS_IN_VAIN = 25  # of each process
_REFUSALS = 3  # of one process, in the same words
_REFUSAL_SECONDS = 8.0  # from the first to the last of them: longer than a lease
_NUMBERS = re.compile(r"\d+")


class GivenUpError(Exception):
    """The campaign was interrupted, and the trial with it."""


class StuckError(Exception):
    """The flow does not go on, or one of its processes does not end."""


class RefusedError(Exception):
    """The flow is refused again and again, after its records were damaged.

    :arg ending: How a process ended each time.
    """

    def __init__(self, ending: UnexpectedExit) -> None:
        super().__init__(ending.error)
        self.ending = ending


@dataclass(frozen=True)
class Program:
    """The program that runs a process of the flow.

    :arg command: Takes the arguments of ``python -m bytewax_redis_state.run``.
    :arg environ: Environment variables to add.
    """

    command: Sequence[str] = (sys.executable, "-m", "bytewax_redis_state.run")
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UnexpectedExit:
    """The end of a process whose flow had input left.

    :arg process: Number of the process.
    :arg code: Its exit code; negative for a signal.
    :arg error: The line with its error; empty if there is none.
    """

    process: int
    code: int
    error: str


def _error_line(said: str) -> str:
    lines = [line for line in said.splitlines() if "error: " in line or "Error: " in line]
    return lines[-1].strip()[:300] if lines else ""


def _unexpected_exit(number: int, process: FlowProcess) -> UnexpectedExit:
    return UnexpectedExit(number, process.wait(), _error_line(process.err))


def _is_alike(one: UnexpectedExit, other: UnexpectedExit) -> bool:
    """Tell whether two processes of one number ended alike: numbers in their errors may differ."""
    errors = {_NUMBERS.sub("", each.error) for each in (one, other)}
    return len(errors) == 1 and (one.process, one.code) == (other.process, other.code)


class SystemUnderTest:
    """Everything that a fault can strike.

    :arg topology: The processes and workers of the flow.
    :arg folder: For all files; made here.
    :arg deployment: The Redis of this system alone; started here.
    :arg program: The command that runs the flow.
    :arg fast_paths: One of ``schedule.FAST_PATHS``.
    :arg shifted: Whether a fault will shift clocks.
    :arg piped: Whether a fault will close the standard error of a process.
    :arg shaped: Whether the flow has a step whose state has hostile shapes.
    :arg given_up: Set to end the trial early.
    """

    def __init__(
        self,
        topology: FlowTopology,
        folder: Path,
        deployment: RedisDeployment,
        namespace: str,
        program: Program,
        *,
        fast_paths: str = "on",
        shifted: bool = False,
        piped: bool = False,
        shaped: bool = False,
        given_up: threading.Event | None = None,
    ) -> None:
        self.topology = topology
        self.folder = folder
        self.deployment = deployment
        self.keys = FlowKeys(namespace, FLOW_ID)
        self.execution = Execution()
        self.starts = 0
        self.endings: list[UnexpectedExit] = []
        self.proxy = Proxy(deployment.listeners(topology.processes))
        self.shifts = [0] * topology.processes
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.input_limiter = InputLimiter(folder / "limit", _RATE, self._position)
        self._program = program
        self._fast_path_turns = cycle(_FAST_PATH_TURNS[fast_paths])
        self._fast_path = ""
        self._shifted = shifted
        self._piped = piped
        self._shaped = shaped
        self._given_up = given_up or threading.Event()
        self._codec = Codec()
        self._opened = ExitStack()
        self._in_vain = 0
        self._executions: list[Execution] = []
        self.damaged = False
        self._last_manifest: Manifest | None = None
        self._refusals: list[tuple[float, UnexpectedExit]] = []

    @property
    def out(self) -> Path:
        """Folder with the output of all processes."""
        return self.folder / "out"

    @property
    def server(self) -> SingleServer:
        """The Redis of the flow, where that is one server."""
        assert isinstance(self.deployment, SingleServer)
        return self.deployment

    @property
    def own_server(self) -> OwnServer:
        """The Redis of the flow, where that is an embedded server."""
        assert isinstance(self.deployment, OwnServer)
        return self.deployment

    @property
    def group(self) -> ServerGroup:
        """The Redis of the flow, where that is a group of servers."""
        assert isinstance(self.deployment, ServerGroup)
        return self.deployment

    # -- starting and ending ------------------------------------------------------------------

    def open(self) -> None:
        """Start Redis, the network and the flow."""
        self.proxy.start()
        self.deployment.start()
        self._client = self._opened.enter_context(self.deployment.client(_LOOK_TIMEOUT))
        for process in range(self.topology.processes):
            set_clock(self._clock(process), 0)
        self.input_limiter.start()
        self.start()

    def close(self) -> None:
        """End every process, the network and Redis."""
        with suppress(RuntimeError):  # the thread was never started
            self.input_limiter.stop()
        for execution in self._executions:
            for process in execution.processes:
                process.kill_group()
        self._opened.close()
        self.proxy.stop()
        self.deployment.stop()

    def start(self, *, take_over: bool = False) -> None:
        """Start all processes of the flow."""
        shared = self._addresses()
        self.execution = Execution()
        self._executions.append(self.execution)
        for process in range(self.topology.processes):
            folder = self.folder / f"start-{self.starts}-{process}"
            own = [*shared, "-i", process] if shared else []
            options = [*self._options(process), *own, *(["--take-over"] * take_over)]
            self.execution.add(partial(self._start_process, process, options), folder, "")
        self.starts += 1

    def _addresses(self) -> list[object]:
        count = self.topology.processes
        return [] if count == 1 else ["-a", ";".join(free_addresses(count))]

    def _options(self, process: int) -> list[object]:
        """Give the options of a process, without those that name the other processes."""
        url = self.deployment.url_through(self.proxy.listeners, process)
        return [
            *(("--redis", url) if url else ()),
            *("--namespace", self.keys.namespace, "-s", _EPOCH_SECONDS),
            *("--checkpoint-interval", _CHECKPOINT_SECONDS, "-w", self.topology.workers),
            *("--shards", _SHARDS, "--join-timeout", _JOIN_SECONDS),
            *("--scratch", self._scratch_of(process)),
        ]

    def _scratch_of(self, process: int) -> Path:
        return self.scratch / str(process)

    def _start_process(
        self, process: int, options: list[object], folder: Path, at_step: str = ""
    ) -> FlowProcess:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("BYTEWAX_")}
        environ["CHAOS_LIMIT"] = str(self.input_limiter.path)
        environ["CHAOS_OUT"] = str(self.out / folder.name)
        if not any(process.alive for process in self.execution.processes):
            self._fast_path = next(
                self._fast_path_turns
            )  # the processes of an execution must agree
        environ["BYTEWAX_REDIS_FAST_PATHS"] = self._fast_path
        if self._shaped:
            environ["CHAOS_SHAPES"] = "1"
        if self._shifted:
            environ |= clock_environ(self._clock(process))
        environ |= self._program.environ
        scratch = self._scratch_of(process)
        scratch.mkdir(exist_ok=True)
        command = [*self._program.command, _MODULE_FLOW, *options]
        cwd = self.deployment.working_directory
        return FlowProcess(command, environ, folder, scratch, cwd=cwd, piped=self._piped)

    def _clock(self, process: int) -> Path:
        return self.folder / f"clock-{process}"

    # -- supervising --------------------------------------------------------------------------

    def tend(self) -> bool:
        """Start each process again that has failed.

        :returns: Whether all processes have ended well.
        :raises GivenUpError: If the trial was ended early.
        :raises StuckError: If too many starts have failed, one after the other.
        :raises RefusedError: If records were damaged, and the flow is refused again and again.
        """
        if self._given_up.is_set():
            raise GivenUpError
        for number, process in enumerate(self.execution.processes):
            if process.popen.poll():
                self.endings.append(_unexpected_exit(number, process))
                self._note_refusal(self.endings[-1])
                self._in_vain += 1
                most = _MOST_STARTS_IN_VAIN * self.topology.processes
                if self._in_vain > most and not self.damaged:
                    raise StuckError(f"{self._in_vain} starts failed in a row:\n{self.last_words}")
                self.starts += 1
                self.execution.restart(number)
        return all(process.popen.poll() == 0 for process in self.execution.processes)

    def _note_refusal(self, ending: UnexpectedExit) -> None:
        """Note how a process ended after damage.

        :raises RefusedError: If it has been refused so several times.
        :raises StuckError: If it has ended so several times, and not as a refused process does.
        """
        if not self.damaged or ending.code == -signal.SIGKILL:
            return
        now = time.monotonic()
        self._refusals.append((now, ending))
        same = [at for at, each in self._refusals if _is_alike(each, ending)]
        if len(same) < _REFUSALS or now - same[0] < _REFUSAL_SECONDS:
            return
        if ending.code == EXIT_FAILED and ending.error:
            raise RefusedError(ending)
        raise StuckError(
            f"process {ending.process} ends with {ending.code} again and again, and names no "
            f"reason:\n{self.last_words}"
        )

    def begin_anew(self) -> None:
        """End all processes, delete all keys of the flow, and start it at its sources' start."""
        for execution in self._executions:
            execution.kill_groups()
        with self.deployment.client() as client:
            for pattern in self.keys.patterns:
                for key in list(client.scan_iter(match=pattern, count=1000)):
                    client.unlink(key)
        self.damaged = False
        self._in_vain = 0
        self.start()

    def end_of(self, execution: Execution, seconds: float = BOUND_SECONDS) -> None:
        """Wait until all processes of an execution have ended, and note their ends.

        :raises StuckError: If one goes on.
        """
        deadline = time.monotonic() + seconds
        while any(process.alive for process in execution.processes):
            if time.monotonic() > deadline:
                raise StuckError(
                    f"a process goes on {seconds:.0f} s after its flow was taken over:\n"
                    f"{execution.said}"
                )
            time.sleep(_POLL)
        self.endings += [
            _unexpected_exit(number, each) for number, each in enumerate(execution.processes)
        ]

    def tend_until(
        self, condition: Callable[[], object], awaited: str, seconds: float = BOUND_SECONDS
    ) -> None:
        """Supervise until a condition holds.

        :arg awaited: The condition in words, for the error.
        :raises StuckError: If it does not hold in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StuckError(f"{awaited}: not in {seconds:.0f} s:\n{self.last_words}")
            self.tend()
            time.sleep(_POLL)

    @property
    def last_words(self) -> str:
        """The errors of the last processes that failed, and the last output of those that live."""
        errors = [f"process {e.process}: {e.error}" for e in self.endings[-3:] if e.error]
        return "\n".join([*errors, self.execution.said[-3000:]])

    def await_commits(self, count: int = 2) -> None:
        """Supervise until all processes run and ``count`` more epochs are committed."""
        self.tend_until(self.has_started, "the flow starts")
        seen, left = self.progress(), count

        def committed() -> bool:
            nonlocal seen, left
            now = self.progress()
            left -= now > seen > 0  # 0 means that it could not be read
            seen = now
            return left <= 0 and self.has_started() and self.execution.alive

        self.tend_until(committed, f"{count} epochs are committed")
        self._in_vain = 0
        self._refusals.clear()

    def finish(self) -> int:
        """Let the flow read to its end.

        :returns: The flow has read the events with numbers below it.
        :raises StuckError: If the flow or a replicator does not end.
        """
        limit = self.input_limiter.stop()
        self.tend_until(self.tend, "the flow ends")
        self._await_groups()
        return limit

    def run_again(self) -> None:
        """Start the flow once more at the end of its input, and wait for its end."""
        self.start()
        self.tend_until(self.tend, "the flow resumes at its end, and ends")
        self._await_groups()

    def _await_groups(self) -> None:
        deadline = time.monotonic() + BOUND_SECONDS
        while any(
            process.group() for execution in self._executions for process in execution.processes
        ):
            if time.monotonic() > deadline:
                raise StuckError(f"a replicator outlives its flow:\n{self.last_words}")
            time.sleep(0.05)

    # -- looking ------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """Read the manifest; ``None`` where there is none, or where Redis can't be read."""
        try:
            return read_manifest(self._client, self.keys)
        except (redis.RedisError, OSError, StateError):
            return None

    def journal(self, target: int) -> bytes:
        """Give the key of the journal to strike; the manifest's where that can't be read."""
        manifest = self.manifest()
        if manifest is None or not manifest.partitions:
            return self.keys.manifest
        return self.keys.journal(target % manifest.partitions, manifest.generation)

    def progress(self) -> int:
        """Give the epoch below which everything is committed; 0 where it can't be read."""
        manifest = self.manifest()
        if manifest is None or not manifest.partitions:
            manifest = self._last_manifest  # a fault may have deleted it under a running flow
        if manifest is None:
            return 0
        self._last_manifest = manifest
        names = [self.keys.progress(i, manifest.generation) for i in range(manifest.partitions)]
        try:
            return min(int(self._client.hget(name, "epoch") or 0) for name in names)
        except (redis.RedisError, OSError, ValueError):  # it may be damaged
            return 0

    def _position(self) -> int:
        """Give the event up to which the flow had read at its last checkpoint."""
        parts = [str(part) for part in range(input_events.PARTS)]
        names = [self.keys.state("entries", shard_of(part, _SHARDS), part) for part in parts]
        with self._client.pipeline(transaction=False) as pipe:  # the keys may be on several servers
            for name in names:
                pipe.get(name)
            found: list[bytes | None] = pipe.execute()
        bound = self._codec.bind(
            namespace=self.keys.namespace, flow_id=self.keys.flow_id, step="entries"
        )
        return min(
            bound.decode(part, value) if value is not None else 0
            for part, value in zip(parts, found, strict=True)
        )

    def backlog(self) -> int:
        """Give the number of outbox rows that are not in Redis yet, of all processes."""
        found = (process.status for process in self.execution.processes)
        return sum(status.backlog for status in found if status is not None)

    def is_starting(self) -> bool:
        """Tell whether a start is under way."""
        processes = self.execution.processes
        return any(process.alive for process in processes) and not self.has_started()

    def has_started(self) -> bool:
        """Tell whether the engines of all processes run, or are about to."""
        return self.execution.has_resumed

    def has_claimed(self) -> bool:
        """Tell whether the start that is under way has reached Redis."""
        try:
            lease = self._client.get(self.keys.lease(0))
        except (redis.RedisError, OSError):
            return False
        return lease is not None and b'"joining"' in lease

    def is_folding(self) -> bool:
        """Tell whether a fold has moved the first cell, but not yet the last one."""
        manifest = self.manifest()
        if manifest is None or not manifest.steps:
            return False
        cells = cells_of(sorted(manifest.steps), manifest.shards)
        ends = [self.keys.applied(cell.step, cell.shard) for cell in (cells[0], cells[-1])]
        fields = [f"p{partition}" for partition in range(manifest.partitions)]
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for end in ends:
                    pipe.hmget(end, fields)
                first, last = pipe.execute()
        except (redis.RedisError, OSError):
            return False
        return bool(first != last)

    @contextmanager
    def lag(self, listeners: list[Listener], seconds: float = _LAG) -> Iterator[None]:
        """Slow down the connections of some listeners, so that a moment can be hit."""
        self.proxy.delay(listeners, seconds)
        try:
            yield
        finally:
            self.proxy.delay(listeners, 0.0)

    # -- targets -----------------------------------------------------------------------------

    def process(self, target: int) -> FlowProcess:
        """Give the process to strike."""
        return self.execution[target % self.topology.processes]

    def listeners(self, target: int, *, all_of_them: bool) -> list[Listener]:
        """Give the listeners to strike."""
        listeners = self.proxy.listeners
        if all_of_them or not listeners:
            return list(listeners)
        return [listeners[target % len(listeners)]]

    def shift_clock(self, target: int, seconds: int) -> None:
        """Shift the clock of a process against the true one, now and after each start."""
        process = target % self.topology.processes
        self.shifts[process] = seconds
        set_clock(self._clock(process), seconds)
