"""The test behind ``demo``: kill a flow, resume it, and compare it with one that was left alone.

1. Start ``clicks_per_minute`` twice, in two namespaces of one server. One run is left alone.
2. SIGKILL the other one in mid-stream, dataflow and replicator, at a random moment.
3. Delete its scratch folder, and start it again. Steps 2 and 3 are repeated for every kill.
4. When both have ended, compare every closed window and every running total.

Invariant: however a test ends, none of its processes and none of its keys is left.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from bytewax_redis_state.cli.demo.child_run import (
    CHECKPOINT_INTERVAL,
    ChildRun,
    ResumePoint,
    RunLocations,
)
from bytewax_redis_state.cli.demo.clicks_flow import (
    FLOW_ID,
    ClickLoad,
    events_read,
    read_totals,
    read_windows,
)
from bytewax_redis_state.cli.demo.temporary_server import removed_keys
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import Client

__all__ = ["Comparison", "KillTest", "KillTestReport", "Observer"]

_SECONDS_PER_KILL = 3.5  # the stream is slowed down to this, so that each kill finds some left
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.5  # of a kill's part of the stream, how much goes by before it
_POLL = 0.02  # seconds
_STUCK_SECONDS = 300.0  # a run that takes longer is stuck
_TOO_LATE = "the stream was over before the kill"


@dataclass(frozen=True)
class Comparison:
    """How much of two results is equal.

    :arg compared: Things that either of them has.
    :arg equal: Things that both have, with equal values.
    """

    compared: int
    equal: int

    @classmethod
    def of(cls, one: Mapping[Any, object], other: Mapping[Any, object]) -> Comparison:
        """Compare two results, neither of which holds ``None``."""
        names = one.keys() | other.keys()
        return cls(len(names), sum(one.get(name) == other.get(name) for name in names))

    @property
    def ok(self) -> bool:
        """Whether there was something to compare, and all of it is equal."""
        return self.compared > 0 and self.equal == self.compared


@dataclass
class KillTestReport:
    """The result of a kill test.

    :arg events: Events in the stream.
    :arg seed: Seed of the random moments.
    :arg kills: Where the flow resumed after each kill.
    :arg windows: Closed windows; ``None`` if the test failed before.
    :arg totals: Running totals; ``None`` if the test failed before.
    :arg seconds: How long it took.
    :arg failure: Why it failed; empty if it passed.
    """

    events: int
    seed: int
    kills: list[ResumePoint] = field(default_factory=list)
    windows: Comparison | None = None
    totals: Comparison | None = None
    seconds: float = 0.0
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether the test passed."""
        return not self.failure


class Observer(Protocol):
    """Is told how a test proceeds."""

    def reading(self, run: int, event: int) -> None:
        """Be told that a run, counted from 1, has read so many events."""

    def resumed(self, kill: int, point: ResumePoint) -> None:
        """Be told where the flow resumed after a kill, counted from 1."""

    def compared(self, what: str, comparison: Comparison) -> None:
        """Be told the result of a comparison."""


class _FailedError(Exception):
    """The test has failed; the message says why."""


class KillTest:
    """Two runs of the flow on one server, one of which gets killed.

    :arg config: Where Redis is.
    :arg client: Connected to it.
    :arg folder: Empty; for output, scratch and logs.
    :arg load: The stream that both runs read.
    :arg kills: How many.
    :arg seed: Seed of the random moments.
    :arg observer: Is told how it proceeds.
    """

    def __init__(
        self,
        config: RedisConfig,
        client: Client,
        folder: Path,
        load: ClickLoad,
        *,
        kills: int,
        seed: int,
        observer: Observer,
    ) -> None:
        self._client = client
        self._load = load
        self._kills = kills
        self._random = random.Random(seed)
        self._observer = observer
        self._report = KillTestReport(load.events, seed)
        self._stack = ExitStack()
        name = f"demo-{uuid4().hex[:12]}"
        self._through, self._killed = (
            RunLocations(config, FlowKeys(f"{name}-{which}", FLOW_ID), folder / which)
            for which in ("through", "killed")
        )

    def run(self) -> KillTestReport:
        """Run the test.

        :returns: The result; a failure of the flow is in it, and not raised.
        """
        started = time.monotonic()
        with self._stack:
            for place in (self._through, self._killed):
                self._stack.enter_context(removed_keys(self._client, place.keys))
            try:
                self._run()
            except (_FailedError, StateError) as error:
                self._report.failure = str(error)
        self._report.seconds = round(time.monotonic() - started, 1)
        return self._report

    def _run(self) -> None:
        through = self._child(self._through, self._load)
        for number in range(1, self._kills + 1):
            self._kill(self._next_run(number), number)
        last = self._next_run(self._kills + 1)
        self._await(last, lambda: last.exit_code() == 0, self._kills + 1)
        self._await(through, lambda: through.exit_code() == 0)
        self._compare()

    def _child(self, place: RunLocations, load: ClickLoad) -> ChildRun:
        run = ChildRun(place, load)
        self._stack.callback(run.kill)
        return run

    def _next_run(self, number: int) -> ChildRun:
        """Start the next run of the flow that gets killed, and wait until it has resumed."""
        slowed = ClickLoad(self._load.events, _SECONDS_PER_KILL * (self._kills + 1))
        run = self._child(self._killed, slowed if self._kills else self._load)
        self._await(run, lambda: run.resume_point() is not None)
        point = run.resume_point()
        if point is not None and number > 1:
            self._report.kills.append(point)
            self._observer.resumed(number - 1, point)
            self._require_state(number - 1, point)
        return run

    def _require_state(self, kill: int, point: ResumePoint) -> None:
        if not 0 < point.event < self._load.events:
            raise _FailedError(f"kill {kill} landed at event {point.event:,}, not in mid-stream")
        if point.epoch <= 1 or point.keys == 0:
            raise _FailedError(
                f"after kill {kill} the flow resumed at epoch {point.epoch} with {point.keys} keys"
            )

    def _kill(self, run: ChildRun, number: int) -> None:
        moment = self._moment(self._events_read(), number)
        self._await(run, lambda: self._events_read() >= moment, number)
        # The count of events that we see moves at checkpoints. A random wait lets kills come at any
        # time between two of them.
        time.sleep(self._random.uniform(0, CHECKPOINT_INTERVAL.total_seconds()))
        if run.exit_code() is not None:
            raise _FailedError(_TOO_LATE)
        run.kill()
        run.delete_scratch()

    def _moment(self, event: int, number: int) -> int:
        """Choose the event after which to kill; some of the stream is left after the last kill."""
        part = (self._load.events - event) / (self._kills - number + 1)
        return event + int(part * self._random.uniform(_LEAST_SHARE, _MOST_SHARE))

    def _events_read(self) -> int:
        return events_read(self._client, self._killed.keys)

    def _await(self, run: ChildRun, condition: Callable[[], bool], shown: int = 0) -> None:
        """Wait until a run has got somewhere, and show how many events it has read."""
        deadline = time.monotonic() + _STUCK_SECONDS
        while not condition():
            code = run.exit_code()
            if code == 0 and not condition():
                raise _FailedError(_TOO_LATE)
            if code:
                raise _FailedError(f"a run ended with code {code}: {run.last_error_line()}")
            if time.monotonic() > deadline:
                raise _FailedError(f"a run is stuck: {run.last_error_line()}")
            if shown:
                self._observer.reading(shown, self._events_read())
            time.sleep(_POLL)

    def _compare(self) -> None:
        windows = Comparison.of(read_windows(self._through.out), read_windows(self._killed.out))
        totals = Comparison.of(
            read_totals(self._client, self._through.keys),
            read_totals(self._client, self._killed.keys),
        )
        self._report.windows, self._report.totals = windows, totals
        self._observer.compared("windows", windows)
        self._observer.compared("totals", totals)
        if not (windows.ok and totals.ok):
            raise _FailedError("the runs differ")
