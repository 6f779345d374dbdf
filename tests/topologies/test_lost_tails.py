"""Rule 9: one node of a cluster goes back while the others stay, and nothing is lost.

Its replica is held up while the flow runs on, the primary is killed, and the replica takes over
without the last writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bytewax_redis_state.keys import hash_tag_of, slot_of
from tests.crash.cluster import Cluster
from tests.crash.job import Job
from tests.crash.known import Clicks
from tests.servers.cluster import ClusterGroup
from tests.servers.node import ServerNode, wait_until

from .conftest import MakeJob

pytestmark = [pytest.mark.crash, pytest.mark.long, pytest.mark.timeout(280)]

HELD_SECONDS = 3.0


@pytest.fixture
def group(start_group: Callable[..., ClusterGroup]) -> ClusterGroup:
    # A replica is held up for longer than its node may be silent, and is to take over all the same.
    return start_group("cluster", node_timeout=3000)


def lose_tail(
    group: ClusterGroup, node: ServerNode, key: bytes, meanwhile: Callable[[], None]
) -> None:
    """Let the replica of a key's node take over without what happened meanwhile."""
    (replica,) = group.replicas_of(node)
    replica.hold()
    try:
        # The kernel would keep what is sent to the replica, and it would read it later: fill that.
        node.client.set(b"filling:{%b}" % hash_tag_of(key), bytes(8 << 20))
        meanwhile()
    finally:
        node.kill()
        replica.go_on()
    group.wait_failed_over(node, slot_of(key))


def home_of_journal(group: ClusterGroup, job: Job, generation: int) -> ServerNode:
    return group.primary_of(job.keys.journal(0, generation))


def started(job: Job) -> tuple[Cluster, int]:
    cluster = job.start(checkpoint=0.3)
    return cluster, job.reach_midstream(cluster).generation


def test_a_journal_that_lost_its_tail_together_with_the_flow_is_resumed_before_it(
    group: ClusterGroup, make_job: MakeJob
) -> None:
    """Nothing was folded elsewhere that this journal's replica did not have."""
    job = make_job(group.url, Clicks(160_000))
    cluster, generation = started(job)
    resumed = cluster.wait_resumed()
    node = home_of_journal(group, job, generation)
    key = job.keys.journal(0, generation)
    epochs = []

    def meanwhile() -> None:
        epochs.append(job.progress())
        time.sleep(HELD_SECONDS)
        epochs.append(job.progress())
        cluster.kill_groups()
        cluster.lose_scratch()

    lose_tail(group, node, key, meanwhile)
    assert epochs[1] > epochs[0] + 5
    left = wait_until(lambda: job.partition_epochs(generation, 1), "the journal is there")
    assert left[0] < epochs[1], "no tail was lost"
    job.finish(after=resumed)
    assert job.differences() == []
    assert job.litter() == []
