"""Rules 5a and 5b: two clusters start one flow at once; one runs, and the other says who does."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.job import Job
from tests.crash.processes import Execution, wait_until
from tests.crash.reference_flows import Clicks
from tests.crash.test_planted_bugs import replicator_of
from tests.crash.test_start_steps import killed_in_midstream

pytestmark = pytest.mark.crash

REFUSED = re.compile(
    r"the flow 'clicks_per_minute' is already running: process 0 on host \S+ \(pid \d+\), since \S+"
)
LONG = Clicks(200_000)
"""Runs for longer than the other one needs to be refused, or to take over."""
CASES = [(processes, seed) for processes in (1, 2, 3) for seed in range(4)]


def start_both(job: Job, processes: int, seed: int, **settings: bool) -> list[Execution]:
    clusters = [job.start(processes, join_timeout=12, quick=True, pause=0.1)]
    time.sleep(random.Random(seed).uniform(0, 1.5))
    return [*clusters, job.start(processes, join_timeout=12, quick=True, pause=0.1, **settings)]


def has_let_go(pid: int, replicator: int) -> bool:
    """Whether a dataflow has closed its end of the replicator's standard input."""
    pipe = Path(f"/proc/{replicator}/fd/0").readlink()
    return all(file.readlink() != pipe for file in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.parametrize(
    ("processes", "seed"),
    [pytest.param(*case, marks=() if case == (1, 0) else pytest.mark.long) for case in CASES],
)
def test_one_of_two_runs_and_the_other_is_refused(
    make_job: MakeJob, processes: int, seed: int
) -> None:
    job = make_job(LONG)
    codes = [execution.wait() for execution in start_both(job, processes, seed)]
    said = "\n".join(execution.said for execution in job._executions)
    assert sorted(codes) == [[0] * processes, [2] * processes], said
    refused = job._executions[codes.index([2] * processes)]
    assert REFUSED.search(refused.said), refused.said
    assert job.differences() == []
    assert job.leftover_keys() == []


@pytest.mark.long
@pytest.mark.parametrize(("processes", "seed"), CASES)
def test_with_take_over_the_later_one_runs(make_job: MakeJob, processes: int, seed: int) -> None:
    job = make_job(LONG)
    first, second = start_both(job, processes, seed, take_over=True)
    codes = [first.wait(), second.wait()]
    said = f"{first.said}\n=====\n{second.said}"
    if codes[0] == [0] * processes:  # it claimed its lease when the other had just taken none
        assert REFUSED.search(second.said), said
    else:
        assert codes == [[2] * processes, [0] * processes], said
    assert job.differences() == []
    assert job.leftover_keys() == []


@pytest.mark.long
def test_a_process_that_learns_of_a_take_over_by_the_end_of_the_others_says_so(
    make_job: MakeJob,
) -> None:
    """Its engine panics when theirs has gone, before its own replicator knows anything."""
    job = make_job()
    first = job.start(2)
    job.reach_midstream(first, 2)
    pid = replicator_of(first, 1)
    for stopped in (first[1].pid, pid):
        first[1].send(signal.SIGSTOP, to=stopped)
    second = job.start(2, quick=True, take_over=True)
    assert first[0].wait() == 2, first.said
    wait_until(lambda: second[1].resumed is not None or not second.alive, "the second one runs")
    first[1].send(signal.SIGCONT)
    wait_until(lambda: has_let_go(first[1].pid, pid), "the engine ends, and the drain begins")
    first[1].send(signal.SIGCONT, to=pid)
    assert first[1].wait() == 2, first.said
    assert re.search(r"bytewax-redis-state: error: .* taken over by ", first[1].err), first.said
    assert "Traceback" not in first[1].err
    job.wait_for_end(second)
    assert job.differences() == []
    assert job.leftover_keys() == []


@pytest.mark.long
def test_of_two_clusters_with_half_of_the_slots_each_the_living_one_runs(make_job: MakeJob) -> None:
    """Process 1 of one is paused in its place, process 0 of the other has the other place."""
    job = make_job()
    killed_in_midstream(job, 2)
    first = job.start(2, join_timeout=60, at_step={1: "stop:claimed"})
    wait_until(lambda: first[1].is_stopped, "process 1 holds its lease")
    first[0].kill()  # its place is free, that of process 1 is when its lease has expired
    second = job.start(2, join_timeout=30, quick=True)
    wait_until(lambda: second[1].resumed is not None or not second.alive, "the second one runs")
    first[1].send(signal.SIGCONT)
    assert first[1].wait() == 2, first.said
    assert "was taken over by process 1" in first[1].err
    job.wait_for_end(second)
    assert job.differences() == []
    assert job.leftover_keys() == []
