"""SIGKILLs at random moments in mid-stream: what comes out is what an uninterrupted run puts out.

==========================  =====================================================
struck                      what happens then
==========================  =====================================================
the whole process group     scratch is deleted, the flow is started again
the dataflow alone          the same at once, while the replicator still drains
the replicator alone        the watchdog restarts it, the run goes on to its end
one process of two          the other ends by itself; both are started again
==========================  =====================================================

Each test strikes four times, and asserts that each strike landed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import pytest

from .conftest import MakeJob
from .job import Job
from .processes import Execution, ResumeMessage, wait_until
from .reference_flows import Clicks, Ledger, ReferenceFlow

pytestmark = pytest.mark.crash

STRIKES = 4
Strike = Callable[[Job, Execution], None]
Shape = tuple[int, int]  # processes, workers of each

FAST, SLOW, IN_TURN = (True,), (False,), (True, False)
ONE_WORKER, TWO_WORKERS, TWO_PROCESSES = (1, 1), (1, 2), (2, 1)


def strike_groups(_job: Job, execution: Execution) -> None:
    execution.kill_groups()


def strike_dataflows(_job: Job, execution: Execution) -> None:
    execution.kill()


def strike_one_of_two(job: Job, execution: Execution) -> None:
    """Kill the first or the second, with its replicator or without; the other ends by itself."""
    victim = job.landed % 2
    if job.landed < 2:
        execution[victim].kill_group()
    else:
        execution[victim].kill()
    assert execution[1 - victim].wait() != 0


def strike_on_and_on(
    job: Job, shape: Shape, strike: Strike, fast_paths: Sequence[bool] = FAST
) -> None:
    """Start, strike and lose the scratch, several times; then run to the end and compare.

    :arg fast_paths: Whether each start has fast paths, in turn.
    """
    before: ResumeMessage | None = None
    for start in range(STRIKES):
        execution = job.start(*shape, fast_paths=fast_paths[start % len(fast_paths)])
        resumed = job.reach_midstream(execution)
        if before is not None:
            job.check_landed(resumed, before)
        strike(job, execution)
        execution.lose_scratch()
        before = resumed
    job.finish(*shape, after=before, fast_paths=fast_paths[0])
    assert job.differences() == []
    assert job.landed == STRIKES
    assert job.leftover_keys() == []


@pytest.mark.parametrize(
    ("reference", "shape", "fast_paths"),
    [
        pytest.param(Clicks(), ONE_WORKER, SLOW, id="clicks on one worker without fast paths"),
        pytest.param(Clicks(), TWO_PROCESSES, FAST, id="clicks in two processes"),
        pytest.param(Ledger(), TWO_WORKERS, SLOW, id="ledger on two workers without fast paths"),
        pytest.param(Ledger(), TWO_PROCESSES, IN_TURN, id="ledger in two processes, in turn"),
    ],
)
def test_after_kills_of_the_whole_process_group_all_is_exact(
    make_job: MakeJob, reference: ReferenceFlow, shape: Shape, fast_paths: Sequence[bool]
) -> None:
    strike_on_and_on(make_job(reference), shape, strike_groups, fast_paths)


@pytest.mark.parametrize(
    ("reference", "shape", "fast_paths"),
    [
        pytest.param(Ledger(), ONE_WORKER, FAST, id="ledger on one worker"),
        pytest.param(Clicks(), TWO_WORKERS, IN_TURN, id="clicks on two workers, in turn"),
        pytest.param(Clicks(), TWO_PROCESSES, SLOW, id="clicks in two processes without"),
    ],
)
def test_after_kills_of_the_dataflow_alone_all_is_exact(
    make_job: MakeJob, reference: ReferenceFlow, shape: Shape, fast_paths: Sequence[bool]
) -> None:
    strike_on_and_on(make_job(reference), shape, strike_dataflows, fast_paths)


@pytest.mark.parametrize("reference", [Clicks(), Ledger()], ids=["clicks", "ledger"])
def test_after_kills_of_one_process_of_two_all_is_exact(
    make_job: MakeJob, reference: ReferenceFlow
) -> None:
    strike_on_and_on(make_job(reference), TWO_PROCESSES, strike_one_of_two)


@pytest.mark.parametrize(
    ("reference", "shape"),
    [
        pytest.param(Clicks(80_000), ONE_WORKER, id="clicks on one worker"),
        pytest.param(Ledger(9_000), TWO_WORKERS, id="ledger on two workers"),
        pytest.param(Ledger(9_000), TWO_PROCESSES, id="ledger in two processes"),
    ],
)
def test_after_kills_of_the_replicator_alone_the_run_ends_right(
    make_job: MakeJob, reference: ReferenceFlow, shape: Shape
) -> None:
    job = make_job(reference)
    execution = job.start(*shape)
    while job.landed < STRIKES:
        job.reach_midstream(execution)
        strike_replicator(job, execution)
    job.wait_for_end(execution)
    assert job.differences() == []
    assert job.leftover_keys() == []


def strike_replicator(job: Job, execution: Execution) -> None:
    """Kill one, and wait until the one that takes its place has got on."""
    process = execution[job.landed % len(execution.processes)]
    struck = process.replicator
    assert struck is not None
    process.send(signal.SIGKILL, to=struck)
    before = job.progress()
    wait_until(lambda: process.replicator not in (None, struck), "another replicator")
    wait_until(lambda: job.progress() > before + 1, "progress goes on")
    assert execution.alive
    assert job.has_input_left, "it struck when all input was read"
    job.landed += 1


@pytest.mark.container
def test_after_kills_with_redis_in_a_container_all_is_exact(
    make_job: MakeJob, container_redis_url: str
) -> None:
    strike_on_and_on(make_job(Clicks(), container_redis_url), TWO_WORKERS, strike_groups)
