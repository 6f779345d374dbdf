"""A start dies at each of its numbered steps: the next one is right.

Before it, the flow was killed in mid-stream, with everything still in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from .conftest import MakeJob
from .job import NEVER, Job
from .processes import wait_until
from .reference_flows import Ledger

pytestmark = pytest.mark.crash

KILLED = -9
STEPS = (
    "claimed",
    "joined",
    "planned",
    "bumped",
    "newest",
    "fenced",
    "cells",
    "epoch",
    "checked",
    "folded",
    "settled",
    "written",
    "cleaned",
)
"""Of the coordinator, in ``recovery/start/steps.py``; then those of every process."""
PHASES = ("restored", "outbox", "shipping")
OTHERS = ("claimed", "waiting", "listed", *PHASES)
BEFORE_THE_MANIFEST = STEPS[: STEPS.index("written")]


def killed_in_midstream(job: Job, processes: int = 1) -> None:
    execution = job.start(processes, checkpoint=NEVER)
    resumed = job.reach_midstream(execution, 4)
    execution.kill_groups()
    execution.lose_scratch()
    generation = resumed.generation
    found = job.partition_epochs(generation, processes)
    assert min(found) >= resumed.epoch + 4, "the journal holds several epochs"


def end_right(job: Job, processes: int = 1) -> None:
    resumed = job.finish(processes)
    assert resumed.epoch > 1
    assert resumed.total > 0
    assert job.differences() == []
    assert job.leftover_keys() == []


@pytest.mark.parametrize("step", [*STEPS, *PHASES])
def test_a_start_killed_at(make_job: MakeJob, step: str) -> None:
    job = make_job(Ledger(3000))
    killed_in_midstream(job)
    execution = job.start(at_step={0: f"kill:{step}"})
    assert execution.wait() == [KILLED], execution.said
    execution.lose_scratch()
    end_right(job)


def test_the_first_start_ever_killed_at_each_step_in_turn(make_job: MakeJob) -> None:
    job = make_job(Ledger(3000))
    for step in (*STEPS, *PHASES):
        execution = job.start(at_step={0: f"kill:{step}"})
        assert execution.wait() == [KILLED], execution.said
        execution.lose_scratch()
    assert job.finish().epoch == 1
    assert job.differences() == []
    assert job.leftover_keys() == []


def test_starts_killed_at_each_step_in_turn(make_job: MakeJob) -> None:
    job = make_job(Ledger(3000))
    killed_in_midstream(job)
    for step in (*STEPS, *PHASES):
        execution = job.start(at_step={0: f"kill:{step}"})
        assert execution.wait() == [KILLED], execution.said
        execution.lose_scratch()
    end_right(job)


def in_threes(steps: Sequence[str]) -> pytest.MarkDecorator:
    threes = [steps[i : i + 3] for i in range(0, len(steps), 3)]
    return pytest.mark.parametrize("steps", threes, ids=", ".join)


@in_threes([*STEPS, *PHASES])
def test_the_coordinator_of_two_killed_at(make_job: MakeJob, steps: Sequence[str]) -> None:
    """Each time from mid-stream; what one start did wrong would show at the end."""
    job = make_job()
    for step in steps:
        killed_in_midstream(job, 2)
        execution = job.start(2, join_timeout=8, at_step={0: f"kill:{step}"})
        assert execution[0].wait() == KILLED, execution.said
        if step in BEFORE_THE_MANIFEST:
            # It waits in vain for a manifest that lists it, and says so.
            assert execution[1].wait() == 2, execution.said
            assert "process 0" in execution[1].err
        execution.kill_groups()
        execution.lose_scratch()
    end_right(job, 2)


@in_threes(OTHERS)
def test_the_other_of_two_killed_at(make_job: MakeJob, steps: Sequence[str]) -> None:
    job = make_job()
    for step in steps:
        killed_in_midstream(job, 2)
        execution = job.start(2, at_step={1: f"kill:{step}"})
        assert execution[1].wait() == KILLED, execution.said
        execution.kill_groups()
        execution.lose_scratch()
    end_right(job, 2)


@pytest.mark.parametrize("step", ["joined", "folded"])
def test_a_coordinator_that_comes_back_finds_the_other_still_waiting(
    make_job: MakeJob, step: str
) -> None:
    """As under a supervisor, which starts only the process that died."""
    job = make_job()
    killed_in_midstream(job, 2)
    execution = job.start(2, quick=True, at_step={0: f"kill:{step}"})
    assert execution[0].wait() == KILLED, execution.said
    assert execution[1].alive
    execution.restart(0)
    job.wait_for_end(execution)
    assert job.differences() == []
    assert job.leftover_keys() == []


@pytest.mark.parametrize(("process", "step"), [(0, "written"), (1, "listed"), (1, "shipping")])
def test_a_process_that_dies_before_the_engines_meet_can_be_started_again(
    make_job: MakeJob, process: int, step: str
) -> None:
    """The other's engine would wait for it for good; each is started again when it ends."""
    job = make_job()
    killed_in_midstream(job, 2)
    execution = job.start(2, quick=True, join_timeout=8, at_step={process: f"kill:{step}"})
    assert execution[process].wait() == KILLED, execution.said

    def supervise() -> bool:
        for number, process in enumerate(execution.processes):
            if not process.alive and process.wait() != 0:
                execution.restart(number)
        return not any(process.alive for process in execution.processes)

    wait_until(supervise, "all processes have ended well")
    assert job.differences() == []
    assert job.leftover_keys() == []
