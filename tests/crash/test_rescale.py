"""A flow is killed in mid-stream and goes on with other numbers of workers and processes."""

from __future__ import annotations

import pytest

from .conftest import MakeJob
from .reference_flows import Clicks, Ledger, ReferenceFlow

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("reference", [Clicks(60_000), Ledger(12_000)], ids=["clicks", "ledger"])
def test_one_worker_then_three_then_two_processes_then_one(
    make_job: MakeJob, reference: ReferenceFlow
) -> None:
    job = make_job(reference)
    before = None
    for processes, workers in [(1, 1), (1, 3), (2, 1)]:
        execution = job.start(processes, workers)
        resumed = job.reach_midstream(execution)
        if before is not None:
            job.check_landed(resumed, before)
        execution.kill_groups()
        execution.lose_scratch()
        before = resumed
    job.finish(1, 1, after=before)
    assert job.landed == 3
    assert job.differences() == []
    assert job.leftover_keys() == []
