"""How long no epoch reached the journal."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import timedelta

from bytewax_redis_state.chaos.servers.node import wait_until
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.translation import translated
from tests.crash.job import Job
from tests.crash.processes import Execution

_LOOK_SECONDS = 0.01
_PATIENCE = timedelta(seconds=1)


class Pauses:
    """Watch a job's progress in a thread, as a context manager.

    :arg job: Has started.
    :arg execution: Its processes.
    :arg generation: That runs.
    :arg partitions: How many it has.
    """

    def __init__(self, job: Job, execution: Execution, generation: int, partitions: int) -> None:
        self._execution = execution
        self._keys = [job.keys.progress(p, generation) for p in range(partitions)]
        self._config = RedisConfig(
            url=job.url,
            connect_timeout=_PATIENCE,
            read_timeout=_PATIENCE,
            write_timeout=_PATIENCE,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.longest = 0.0
        self.epoch = 0

    def __enter__(self) -> Pauses:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_epochs(self, count: int, seconds: float = BOUND_SECONDS) -> None:
        """Wait until so many more epochs have reached the journal."""
        wait_until(lambda: self.epoch, "an epoch is in the journal", seconds)
        goal = self.epoch + count
        wait_until(
            lambda: self.epoch >= goal or not self._execution.alive, f"epoch {goal}", seconds
        )
        assert self._execution.alive, self._execution.said

    def _watch(self) -> None:
        client, since = None, time.monotonic()
        while not self._stop.wait(_LOOK_SECONDS):
            with suppress(StateError), translated(self._config.address):
                client = client or connect(self._config)
                epoch = min(int(client.hget(key, "epoch") or 0) for key in self._keys)
                now = time.monotonic()
                if epoch > self.epoch:
                    self.longest = max(self.longest, now - since if self.epoch else 0.0)
                    self.epoch, since = epoch, now
        if client is not None:
            client.close()
