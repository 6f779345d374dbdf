"""Rule 5: a start is paused past its lease at each of its steps, and goes on when it is too late.

It writes nothing, says who took over, and ends with our exit code; the other's answer is exact.
"""

from __future__ import annotations

import signal

import pytest

from tests.crash.conftest import MakeJob
from tests.crash.processes import wait_until
from tests.crash.reference_flows import Ledger
from tests.crash.test_start_steps import OTHERS, PHASES, STEPS, killed_in_midstream

from .paused import have_claimed, outlive_lease, take_over_and_wake

pytestmark = pytest.mark.crash

IN_SHORT = {("0 of 1", "fenced"), ("1 of 2", "listed")}
CASES = [
    *(("0 of 1", step) for step in (*STEPS, *PHASES)),
    *(("0 of 2", step) for step in (*STEPS, *PHASES)),
    *(("1 of 2", step) for step in OTHERS),
    *(("0 of 3", step) for step in (*STEPS, *PHASES)),
    *(("2 of 3", step) for step in OTHERS),
]


@pytest.mark.parametrize(
    ("who", "step"),
    [pytest.param(*c, marks=() if c in IN_SHORT else pytest.mark.long) for c in CASES],
)
def test_a_start_paused_past_its_lease_writes_nothing(
    make_job: MakeJob, who: str, step: str
) -> None:
    process, processes = map(int, who.split(" of "))
    job = make_job(Ledger(1500))
    killed_in_midstream(job, processes)
    old = job.start(processes, join_timeout=60, at_step={process: f"stop:{step}"})
    wait_until(lambda: old[process].is_stopped, "it is paused")
    wait_until(lambda: have_claimed(job, old), "the others have claimed their leases")
    alone = processes == 1 and step != "shipping"
    if alone:  # nobody renews its lease; else the others, or its replicator, are awake
        outlive_lease(job, process)
    take_over_and_wake(job, old, [old[process].pid], processes, take_over=not alone)


@pytest.mark.long
@pytest.mark.parametrize("step", [*STEPS, *PHASES])
def test_a_start_that_goes_on_within_its_lease_is_not_hurt(make_job: MakeJob, step: str) -> None:
    job = make_job(Ledger(1500))
    killed_in_midstream(job)
    start = job.start(quick=True, at_step={0: f"stop:{step}"})
    wait_until(lambda: start[0].is_stopped, "it is paused")
    start[0].send(signal.SIGCONT)
    job.wait_for_end(start)
    assert job.differences() == []
