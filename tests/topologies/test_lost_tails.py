"""Rule 9: one node of a cluster goes back while the others stay, and nothing is lost.

Its replica is held up while the flow runs on, the primary is killed, and the replica takes over
without the last writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.node import wait_until
from tests.crash.job import Job
from tests.crash.processes import Execution
from tests.crash.reference_flows import Clicks

from .conftest import MakeJob

pytestmark = [pytest.mark.crash, pytest.mark.long]

HELD_SECONDS = 3.0


@pytest.fixture
def group(start_group: Callable[..., ClusterGroup]) -> ClusterGroup:
    # A replica is held up for longer than its node may be silent, and is to take over all the same.
    return start_group("cluster", node_timeout=3000)


def started(job: Job) -> tuple[Execution, int]:
    execution = job.start(checkpoint=0.3)
    return execution, job.reach_midstream(execution).generation


def test_a_journal_that_lost_its_tail_together_with_the_flow_is_resumed_before_it(
    group: ClusterGroup, make_job: MakeJob
) -> None:
    """Nothing was folded elsewhere that this journal's replica did not have."""
    job = make_job(group.url, Clicks(160_000))
    execution, generation = started(job)
    resumed = execution.wait_resumed()
    key = job.keys.journal(0, generation)
    epochs = []

    def meanwhile() -> None:
        epochs.append(job.progress())
        time.sleep(HELD_SECONDS)
        epochs.append(job.progress())
        execution.kill_groups()
        execution.lose_scratch()

    group.lose_tail(key, meanwhile)
    assert epochs[1] > epochs[0] + 5
    left = wait_until(lambda: job.partition_epochs(generation, 1), "the journal is there")
    assert left[0] < epochs[1], "no tail was lost"
    job.finish(after=resumed)
    assert job.differences() == []
    assert job.leftover_keys() == []
