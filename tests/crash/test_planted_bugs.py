"""The crash tests can fail: each scenario is right as it is, and goes wrong with its bug.

The table in ``planted_bugs.py`` names the bugs. Nothing here is left to luck: each test forces
which process is stopped, and what the others do meanwhile.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .conftest import MakeJob
from .job import NEVER, Job
from .processes import Execution, wait_until
from .reference_flows import Clicks
from .test_double_crash import query

pytestmark = pytest.mark.crash

AHEAD = 5  # epochs


def replicator_of(execution: Execution, process: int) -> int:
    pid = execution[process].replicator
    assert pid is not None
    return pid


# --- Two processes, one of which has shipped less ------------------------------------------------


def killed_unevenly(job: Job, bug: str) -> None:
    """Stop one replicator of two, and kill everything when the other one is well ahead."""
    execution = job.start(2, checkpoint=NEVER, bug=bug)
    resumed = job.reach_midstream(execution, 2)
    execution[1].send(signal.SIGSTOP, to=replicator_of(execution, 1))

    def is_ahead() -> bool:
        first, second = job.partition_epochs(resumed.generation, 2)
        return first >= second + AHEAD

    wait_until(is_ahead, "one partition is ahead")
    execution.kill_groups()
    execution.lose_scratch()


@pytest.mark.parametrize(
    ("bug", "right"), [("", True), ("progress-too-high", False), ("rows-not-dropped", False)]
)
def test_what_is_not_committed_everywhere_is_dropped(
    make_job: MakeJob, bug: str, right: bool
) -> None:
    job = make_job(Clicks(20_000))
    killed_unevenly(job, bug)
    job.finish(bug=bug)
    assert (job.differences() == []) is right


# --- A replicator that sleeps while its flow is taken over ---------------------------------------


def commit_mark(execution: Execution) -> int:
    for file in Path(execution[0].scratch).rglob("part-0.sqlite3"):
        for (mark,) in query(file, "SELECT commit_epoch FROM commits"):
            assert isinstance(mark, int)
            return mark
    return 0


def left_stopped(job: Job, bug: str) -> Execution:
    """Leave a stopped replicator with a full outbox, and no dataflow."""
    execution = job.start(checkpoint=NEVER, bug=bug)
    job.reach_midstream(execution, 2)
    execution[0].send(signal.SIGSTOP, to=replicator_of(execution, 0))
    shipped = job.progress()
    wait_until(lambda: commit_mark(execution) > shipped + AHEAD, "the outbox fills")
    execution[0].kill()
    return execution


@pytest.mark.parametrize(("bug", "right"), [("lease-unheeded", True), ("no-fence", False)])
def test_a_replicator_that_wakes_after_a_takeover_writes_nothing(
    make_job: MakeJob, bug: str, right: bool
) -> None:
    """It wakes when one of the new processes has read the keyed state and the other has not."""
    job = make_job(Clicks(20_000))
    old = left_stopped(job, bug)
    new = job.start(2, quick=True, at_step={0: "stop:written"})
    wait_until(lambda: new[1].resumed is not None, "process 1 has restored its part")
    wait_until(lambda: new[0].is_stopped, "process 0 is held")

    before = job.state()
    old[0].send(signal.SIGCONT, to=replicator_of(old, 0))
    old[0].wait_for_group()
    assert (job.state() == before) is right
    assert ("was taken over by generation 2" in old[0].err) is right

    new[0].send(signal.SIGCONT)
    job.wait_for_end(new)
    assert (job.differences() == []) is right


@pytest.mark.parametrize("stopped", ["the replicator", "the dataflow", "both"])
def test_a_flow_taken_over_while_asleep_ends_with_the_error(
    make_job: MakeJob, stopped: str
) -> None:
    """With ``--take-over``, and nothing planted: state is exact, and the old run says why."""
    job = make_job(Clicks(20_000))
    old = job.start(checkpoint=0.3)
    job.reach_midstream(old, 2)
    replicator_pauses = {
        "the replicator": [replicator_of(old, 0)],
        "the dataflow": [old[0].pid],
        "both": [old[0].pid, replicator_of(old, 0)],
    }[stopped]
    for pid in replicator_pauses:
        old[0].send(signal.SIGSTOP, to=pid)
    job.finish(take_over=True)
    for pid in reversed(replicator_pauses):
        old[0].send(signal.SIGCONT, to=pid)
    assert old[0].wait() == 2
    old[0].wait_for_group()
    assert "taken over" in old[0].err
    assert job.differences() == []


# --- A fold that comes late ----------------------------------------------------------------------


@pytest.mark.parametrize(("bug", "right"), [("late-folds", True), ("folds-not-compared", False)])
def test_a_fold_that_comes_late_changes_nothing(make_job: MakeJob, bug: str, right: bool) -> None:
    job = make_job(Clicks(10_000))
    job.finish(bug=bug, checkpoint=0.1, pause=0.15)
    assert (job.differences() == []) is right
