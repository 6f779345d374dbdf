"""A flow with a known result in a namespace of its own: started, struck and compared.

A strike counts only when it landed in mid-stream: the dataflow was alive and an epoch with state
was committed, and the start after it resumed there with input left to read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import redis

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.client import connect
from tests.ports import free_addresses

from .processes import Execution, ResumeMessage, start_process, wait_until
from .reference_flows import ReferenceFlow

PAUSE = 0.06  # between two batches of a source; the stream is a hundred batches long
NEVER = 3600.0  # seconds between two checkpoints, where none is to come


class Job:
    """Runs of one flow.

    :arg reference: The flow.
    :arg url: Of Redis.
    :arg namespace: Of this job alone.
    :arg folder: For output, scratch and logs.
    :arg seed: Of the random moments.
    """

    def __init__(
        self, reference: ReferenceFlow, url: str, namespace: str, folder: Path, seed: str
    ) -> None:
        self.reference = reference
        self.url = url
        self.namespace = namespace
        self.random = random.Random(seed)
        self.keys = FlowKeys(namespace, reference.flow_id)
        self.client: redis.Redis = connect(RedisConfig(url=url))
        self.landed = 0
        self._folder = folder
        self._executions: list[Execution] = []

    @property
    def out(self) -> Path:
        return self._folder / "out"

    def enter_namespace(self, namespace: str) -> None:
        """Let the next starts be in another namespace."""
        self.namespace = namespace
        self.keys = FlowKeys(namespace, self.reference.flow_id)

    def close(self) -> None:
        """End every process that is left."""
        for execution in self._executions:
            execution.kill_groups()
        self.client.close()

    # -- starting -------------------------------------------------------------------------

    def start(
        self,
        processes: int = 1,
        workers: int = 1,
        *,
        pause: float = PAUSE,
        quick: bool = False,
        checkpoint: float = 0.3,
        join_timeout: float = 30,
        take_over: bool = False,
        fast_paths: bool = True,
        at_step: Mapping[int, str] | None = None,
        bug: str = "",
    ) -> Execution:
        """Start the flow.

        :arg pause: Seconds between two batches of a source.
        :arg quick: Read ten batches at once.
        :arg checkpoint: Seconds between two checkpoints.
        :arg fast_paths: Whether operators whose logic is known run without a logic per key.
        :arg at_step: Process to what it does to itself, see :func:`start_process`.
        :arg bug: Planted in every process and its replicator.
        """
        options: list[object] = ["--redis", self.url, "--namespace", self.namespace]
        options += ["-s", 0.1, "--checkpoint-interval", checkpoint, "-w", workers]
        options += ["--join-timeout", join_timeout]
        if take_over:
            options.append("--take-over")
        if not fast_paths:
            options.append("--no-fast-paths")
        shared = [] if processes == 1 else ["-a", ";".join(free_addresses(processes))]
        environ = self.reference.environ(self.out, pause, quick=quick)
        make = partial(start_process, self.reference.path, environ=environ, bug=bug)
        execution = Execution()
        self._executions.append(execution)
        for process in range(processes):
            own = [*options, *shared, *(["-i", process] if shared else [])]
            folder = self._folder / f"start-{len(self._executions)}-{process}"
            at = (at_step or {}).get(process, "")
            execution.add(partial(make, options=own), folder, at)
        return execution

    # -- how far it is --------------------------------------------------------------------

    def progress(self) -> int:
        """Give the epoch below which every partition of the newest generation is committed."""
        manifest = read_manifest(self.client, self.keys)
        if manifest is None or not manifest.partitions:
            return 0
        epochs = self.partition_epochs(manifest.generation, manifest.partitions)
        return min(epochs, default=0)

    def partition_epochs(self, generation: int, partitions: int) -> list[int]:
        names = [self.keys.progress(partition, generation) for partition in range(partitions)]
        return [int(self.client.hget(name, "epoch") or 0) for name in names]

    def state(self) -> dict[str, dict[str, Any]]:
        """Read the keyed state from Redis."""
        codec = Codec()
        found: dict[str, dict[str, Any]] = {}
        for key in self.client.scan_iter(match=self.keys.state_pattern, count=10_000):
            step, _, state_key = self.keys.parse_state(key)
            value = self.client.get(key)
            if value is not None:
                bound = codec.bind(
                    namespace=self.namespace, flow_id=self.reference.flow_id, step=step
                )
                found.setdefault(step, {})[state_key] = bound.decode(state_key, value)
        return found

    @property
    def has_input_left(self) -> bool:
        """Whether the sources, as of the last checkpoint, have anything left to read."""
        state = self.state()
        positions = [n for source in self.reference.sources for n in state.get(source, {}).values()]
        return any(position < self.reference.events for position in positions)

    # -- striking -------------------------------------------------------------------------

    def reach_midstream(self, execution: Execution, epochs: int | None = None) -> ResumeMessage:
        """Wait until some epochs are committed, and for a random moment of the next one.

        :arg epochs: How many; random by default.
        """
        resumed = execution.wait_resumed()
        goal = max(self.progress(), resumed.epoch) + (epochs or self.random.randint(2, 6))
        wait_until(
            lambda: self.progress() >= goal or not execution.alive,
            f"epoch {goal} is committed",
        )
        # Where in the epoch it strikes is up to the seed.
        time.sleep(self.random.uniform(0, 0.15))
        assert execution.alive, f"a process ended by itself:\n{execution.said}"
        return resumed

    def check_landed(self, resumed: ResumeMessage, before: ResumeMessage) -> None:
        """Count a strike, if the start after it says that it was in mid-stream.

        :arg resumed: What the start after it said.
        :arg before: What the start before it said.
        """
        assert resumed.epoch > max(before.epoch, 1), "nothing was committed before the strike"
        assert resumed.total > 0
        assert self.has_input_left, "it struck when all input was read"
        self.landed += 1

    # -- ending ---------------------------------------------------------------------------

    def finish(
        self,
        processes: int = 1,
        workers: int = 1,
        *,
        after: ResumeMessage | None = None,
        **settings: Any,
    ) -> ResumeMessage:
        """Run to the end of the input; every process must end well.

        :arg after: Message of the last start; given to count a strike after it.
        """
        # Without a checkpoint until the end, so that what it resumed from can be looked at.
        settings = {"pause": 0.03, "quick": True, "checkpoint": NEVER, **settings}
        execution = self.start(processes, workers, **settings)
        if after is not None:
            self.check_landed(execution.wait_resumed(), after)
        self.wait_for_end(execution)
        return execution.wait_resumed()

    def wait_for_end(self, execution: Execution) -> None:
        """Wait until the input is over; every process must end well."""
        codes = execution.wait()
        assert codes == [0] * len(codes), f"exit codes {codes}:\n{execution.said}"
        for process in execution.processes:
            process.wait_for_group()

    def differences(self) -> list[str]:
        """Compare everything with an uninterrupted run."""
        return self.reference.differences(self.state(), self.out)

    def leftover_keys(self) -> list[str]:
        """Give the keys of old generations that nothing would ever delete."""
        manifest = read_manifest(self.client, self.keys)
        assert manifest is not None
        wanted = {self.keys.generation, self.keys.manifest}
        for partition in range(manifest.partitions):
            wanted.add(self.keys.journal(partition, manifest.generation))
            wanted.add(self.keys.progress(partition, manifest.generation))
        for step in manifest.steps:
            wanted |= {self.keys.applied(step, shard) for shard in range(manifest.shards)}
        return sorted(
            key.decode()
            for key in self._all_keys()
            if key not in wanted
            and self.keys.parse_state(key) is None
            and self.client.ttl(key) == -1  # the lease of a process that was killed has one
        )

    def _all_keys(self) -> Iterator[bytes]:
        for pattern in self.keys.patterns:
            yield from self.client.scan_iter(match=pattern, count=10_000)
