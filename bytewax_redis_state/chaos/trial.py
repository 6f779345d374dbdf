"""A trial: one flow from its start to its end under the faults of a plan, and its result.

1. Start Redis, the network and the flow; the input limiter lets the flow read on.
2. For each fault of the plan: wait for its moment, note the state of the flow, inject the fault.
   Then wait until all processes run and commit again, unless the next fault strikes in mid-start.
3. Let the flow read to its end. Compare every key and every line with the expected result, and
   verify the state in Redis as ``doctor --verify`` does.

After damage to records the flow is started once more at its end, because a loss may be noticed only
then. Where it is refused, the error must name the record; the harness then tries the way out: it
deletes the keys of the flow, and the flow begins again at its sources' start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bytewax_redis_state.chaos.damage import Damage
from bytewax_redis_state.chaos.faults import EARLIER_COPY, FAULTS, Fault
from bytewax_redis_state.chaos.flow_result import FlowResult, differences, expected_result
from bytewax_redis_state.chaos.result_reader import read_result
from bytewax_redis_state.chaos.schedule import TOPOLOGIES, Plan, PlannedFault
from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.chaos.servers.own_server import OwnServer
from bytewax_redis_state.chaos.servers.sentinel_group import SentinelGroup
from bytewax_redis_state.chaos.servers.single_server import SingleServer
from bytewax_redis_state.chaos.small_disk import small_disk
from bytewax_redis_state.chaos.system import (
    Program,
    RefusedError,
    StuckError,
    SystemUnderTest,
    UnexpectedExit,
)
from bytewax_redis_state.doctor.verification import verify
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.server.binary import find_server_binary

__all__ = ["BEGUN_AGAIN", "InjectedFault", "Outcome", "Refusal", "Trial"]

BEGUN_AGAIN = "deleted the keys of the flow, and began again at its sources' start"
"""The way out of a refusal that the harness tries."""

_MOMENT_SECONDS = 5.0  # to wait for a moment; then the fault strikes all the same
_START_LAG = 0.004
_IN_EPOCH, _IN_START = 0.15, 1.2  # seconds
_ALL_LAG = 0.25
_COMMITS_TO_DAMAGE = 12  # so that the flow has been folded, and each step has state
_HOSTILE = "hostile-values"
_LOSSES = ("lost", "missing", "no manifest")


def _sentinel_group(folder: Path) -> RedisDeployment:
    return SentinelGroup(find_server_binary(), folder, replicas=1, behind_proxy=True)


def _cluster_group(folder: Path) -> RedisDeployment:
    return ClusterGroup(find_server_binary(), folder, behind_proxy=True)


_DEPLOYMENTS: Mapping[str, Callable[[Path], RedisDeployment]] = {
    "single": SingleServer,
    "sentinel": _sentinel_group,
    "cluster": _cluster_group,
    "embedded": OwnServer,
}
"""The function that makes each of ``schedule.SERVERS``, in a folder."""


@dataclass(frozen=True)
class InjectedFault:
    """A fault that has struck.

    :arg kind: A name of ``faults.FAULTS``.
    :arg after: Seconds from the beginning of the trial to the fault.
    :arg backlog: Outbox rows that were not in Redis yet.
    :arg mid_fold: A fold was under way.
    :arg mid_start: A start was under way.
    :arg recovery: Seconds from the fault until the flow committed again; ``None`` where the next
        fault struck before.
    :arg done: What was done to which record, by a fault that damages one.
    """

    kind: str
    after: float
    backlog: int
    mid_fold: bool
    mid_start: bool
    recovery: float | None
    done: str = ""


@dataclass(frozen=True)
class Refusal:
    """A flow that was refused after damage, and the way out.

    :arg done: What was done to which record.
    :arg said: The error.
    :arg named: Whether the error names the record.
    :arg at_end: Whether it was noticed only when the flow was started at its end.
    :arg way_out: What the harness did then.
    """

    done: str
    said: str
    named: bool
    at_end: bool
    way_out: str


@dataclass
class Outcome:
    """The outcome of a trial.

    :arg plan: Of the trial.
    :arg struck: The faults that were injected.
    :arg wrong: Differences from the expected result; one line for each step.
    :arg findings: Errors that the verification or the harness found beside them.
    :arg stuck: Why the flow did not go on, or did not end; empty where it did.
    :arg limit: The flow read the events with numbers below it.
    :arg compared: Number of values that were compared.
    :arg starts: Number of starts of a process, or of all.
    :arg seconds: Of the whole trial.
    :arg endings: Unexpected exits of processes.
    :arg refusals: After damage: at most one.
    """

    plan: Plan
    struck: list[InjectedFault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    stuck: str = ""
    limit: int = 0
    compared: int = 0
    starts: int = 0
    seconds: float = 0.0
    endings: list[UnexpectedExit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all was right."""
        return not (self.wrong or self.findings or self.stuck)


class Trial:
    """Runs one flow under the faults of a plan.

    :arg folder: For all files; made here.
    :arg program: The command that runs the flow.
    :arg faults: The kinds of faults, by the names that the plan uses.
    :arg given_up: Set to end the trial early.
    """

    system_class: type[SystemUnderTest] = SystemUnderTest

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        namespace: str,
        program: Program,
        *,
        faults: Mapping[str, Fault] = FAULTS,
        given_up: threading.Event | None = None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._namespace = namespace
        self._program = program
        self._faults = faults
        self._given_up = given_up
        self._outcome = Outcome(plan)
        self._began = time.monotonic()
        self._kinds = {planned.kind for planned in plan.strikes}
        self._damage: Damage | None = None

    def run(self) -> Outcome:
        """Run the trial.

        :returns: Its outcome; a flow that fails is an outcome, too.
        :raises GivenUpError: If the trial was ended early.
        """
        with ExitStack() as stack:
            if "disk" in self._kinds:
                stack.enter_context(small_disk(self._folder / "scratch"))
            system = self.system_class(
                TOPOLOGIES[self._plan.topology],
                self._folder,
                _DEPLOYMENTS[self._plan.servers](self._folder / "redis"),
                self._namespace,
                self._program,
                fast_paths=self._plan.fast_paths,
                shifted="clock" in self._kinds,
                piped="close-stderr" in self._kinds,
                shaped=_HOSTILE in self._kinds,
                given_up=self._given_up,
            )
            stack.callback(system.close)
            try:
                self._run(system)
            except (StuckError, RefusedError, TimeoutError) as error:
                done = f"{self._damage.done}: " if self._damage is not None else ""
                self._outcome.stuck = f"{done}{error}"
                self._outcome.findings += self._unfounded_losses(system)
            self._outcome.starts = system.starts
            self._outcome.endings = system.endings
        self._outcome.seconds = round(time.monotonic() - self._began, 1)
        return self._outcome

    def _run(self, system: SystemUnderTest) -> None:
        system.open()
        strikes = self._plan.strikes
        damaging = any(self._faults[kind].damages for kind in self._kinds)
        system.await_commits(_COMMITS_TO_DAMAGE if damaging else 2)
        for number, planned in enumerate(strikes):
            follower = strikes[number + 1] if number + 1 < len(strikes) else None
            self._inject(system, planned, follower)
        self._go_on(system, system.finish)
        self._outcome.limit = system.finish()
        if system.damaged:
            self._go_on(system, system.run_again, system.finish, at_end=True)
        self._judge(system)

    # -- striking -----------------------------------------------------------------------------

    def _inject(
        self, system: SystemUnderTest, planned: PlannedFault, follower: PlannedFault | None
    ) -> None:
        fault = self._faults[planned.kind]
        if self._plan.servers in ("sentinel", "cluster"):  # the last failover must be over
            system.deployment.wait_recovered()
        with self._lag(system, planned):
            self._go_on(system, partial(self._await_moment, system, planned), system.await_commits)
            backlog, folding, starting = self._look(system)
            at = time.monotonic()
            damage = fault.inject(system, planned)
        if damage is not None:
            self._damage, system.damaged = damage, True
        folding = folding or (planned.kind.startswith("kill-") and system.is_folding())
        recovery = None
        if follower is None or follower.moment != "start":
            self._go_on(system, system.await_commits)
            recovery = round(time.monotonic() - at, 2)
            if any(each.kind == "lost-tail" for each in self._plan.strikes):
                system.server.remember(EARLIER_COPY)
        after = round(at - self._began, 2)
        struck = InjectedFault(
            *(planned.kind, after, backlog, folding, starting, recovery),
            done=damage.done if damage is not None else "",
        )
        self._outcome.struck.append(struck)

    def _go_on(
        self,
        system: SystemUnderTest,
        action: Callable[[], object],
        after: Callable[[], object] | None = None,
        *,
        at_end: bool = False,
    ) -> None:
        """Wait for the flow; where it is refused after damage, try the way out and wait again.

        :arg action: Waits for the flow.
        :arg after: Waits for the flow that began again, where that is another function.
        """
        try:
            action()
        except RefusedError as refused:
            assert self._damage is not None
            said = refused.ending.error
            named = self._damage.is_named_in(said)
            done = self._damage.done
            self._outcome.refusals.append(Refusal(done, said, named, at_end, BEGUN_AGAIN))
            if not named:
                self._outcome.findings.append(f"{done}: the error does not name it: {said}")
            system.begin_anew()
            (after or action)()

    def _lag(self, system: SystemUnderTest, planned: PlannedFault) -> AbstractContextManager[None]:
        """Slow the network down, so that the moment lasts long enough to be hit.

        Mostly one process alone is slow, so that it has shipped less than the others. In a start
        all processes are slow: they wait for each other.
        """
        if planned.moment == "stream":
            return nullcontext()
        if planned.moment == "start":
            return system.lag(system.listeners(0, all_of_them=True), _START_LAG)
        return system.lag(system.listeners(planned.target, all_of_them=planned.offset < _ALL_LAG))

    def _look(self, system: SystemUnderTest) -> tuple[int, bool, bool]:
        starting = system.is_starting()
        return system.backlog(), not starting and system.is_folding(), starting

    def _await_moment(self, system: SystemUnderTest, planned: PlannedFault) -> None:
        if planned.moment == "start":
            self._await_start(system, planned)
            return
        condition = {"unshipped": system.backlog, "fold": system.is_folding}.get(planned.moment)
        if condition is None:
            time.sleep(planned.offset * _IN_EPOCH)
            return
        deadline = time.monotonic() + _MOMENT_SECONDS
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.001)

    def _await_start(self, system: SystemUnderTest, planned: PlannedFault) -> None:
        """Wait for the start after the last fault; kill the flow if the fault led to none."""
        system.tend()
        if not system.is_starting():
            system.execution.kill_groups()
            system.tend()
        if planned.offset < 0.4:  # any moment of the start, also before it connects to Redis
            time.sleep(planned.offset / 0.4 * _IN_START)
            return
        deadline = time.monotonic() + _MOMENT_SECONDS
        while not system.has_claimed() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep((planned.offset - 0.4) * _IN_START / 2)

    # -- judging ------------------------------------------------------------------------------

    def _judge(self, system: SystemUnderTest) -> None:
        try:
            found = self._read_result(system)
        except StateError as error:
            self._outcome.findings.append(str(error))
            return
        right = expected_result(self._outcome.limit, shaped=_HOSTILE in self._kinds)
        self._outcome.compared = right.values
        self._outcome.wrong = differences(found, right)
        self._outcome.findings += self._unfounded_losses(system)

    def _read_result(self, system: SystemUnderTest) -> FlowResult:
        with system.deployment.client() as client:
            if verify(client, system.keys).entries:  # the last entries are still in the journal
                system.run_again()
            checked = verify(client, system.keys)
            self._outcome.findings += [f.what for f in checked.findings if f.severity == "error"]
            return read_result(client, system.keys, system.out)

    def _unfounded_losses(self, system: SystemUnderTest) -> list[str]:
        """Find reports of losses in a trial whose faults lose nothing."""
        if any(self._faults[kind].can_lose(self._plan.servers) for kind in self._kinds):
            return []
        said = {e.error for e in system.endings if any(loss in e.error for loss in _LOSSES)}
        return [f"a loss was reported where there was none: {error}" for error in sorted(said)]
