"""A flow that writes much state, and what it is told: for tests of Redis away and of durability."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.testing import TestingSink, run_main

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.recovery.reporter import LogReporter

EPOCH = timedelta(milliseconds=20)
SIZE = 1000  # bytes of one key's state


class Told(LogReporter):
    def __init__(self):
        self.warnings: list[str] = []

    def warn(self, line):
        self.warnings.append(line)


class _Counter(StatefulSourcePartition):
    def __init__(self, job, number):
        self._job, self._number = job, number

    def next_batch(self):
        if self._job.ended.is_set():
            raise StopIteration
        self._number += 10
        self._job.given = self._number
        return range(self._number - 10, self._number)

    def next_awake(self):
        return datetime.now(timezone.utc) + timedelta(milliseconds=1)

    def snapshot(self):
        return self._number


class Stateful(FixedPartitionedSource):
    def __init__(self, job):
        self._job = job

    def list_parts(self):
        return ["only"]

    def build_part(self, step_id, for_part, resume_state):
        return _Counter(self._job, resume_state or 0)


class Stateless(DynamicSource):
    def __init__(self, job):
        self._job = job

    def build(self, step_id, worker_index, worker_count):
        class Plain(StatelessSourcePartition):
            """Bytewax looks at the class: it must not have a snapshot."""

            counter = _Counter(self._job, 0)
            next_batch = counter.next_batch
            next_awake = counter.next_awake

        return Plain()


class Job:
    """A flow that writes about 50 kB of state in each epoch, run in a thread of its own."""

    def __init__(self, recovery: RedisRecovery, source=Stateful):
        self.given = 0
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.session = None
        self._recovery = recovery
        flow = Dataflow("bulky")
        keyed = op.key_on("key", op.input("in", flow, source(self)), lambda n: f"k{n % 50}")

        def add(held, number):
            total = (held[0] if held else 0) + number
            return (total, "x" * SIZE), total

        op.output("out", op.stateful_map("sum", keyed, add), TestingSink([]))
        self.flow = flow

    def run(self, act) -> None:
        """Run the flow here, and act in a thread until it is done; then the flow ends."""

        def acting():
            try:
                act(self)
            except BaseException as error:  # noqa: BLE001 - raised below
                self.error = error
            self.ended.set()

        thread = threading.Thread(target=acting, daemon=True)
        with self._recovery.session(self.flow) as self.session:
            thread.start()
            run_main(
                self.session.flow,
                epoch_interval=EPOCH,
                recovery_config=self.session.recovery_config,
            )
        thread.join()
        if self.error:
            raise self.error

    def stands_still(self) -> bool:
        before = self.given
        time.sleep(0.5)
        return self.given == before
