"""Failovers and moving slots under running flows: no answer is wrong, and the pause is told.

Each strike hits a flow in mid-stream, which has to go on by itself; then the whole flow is killed,
its scratch is lost, and it is resumed to its end and compared with an uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.node import ServerNode
from bytewax_redis_state.chaos.servers.sentinel_group import SentinelGroup
from bytewax_redis_state.keys import slot_of
from tests.crash.job import Job
from tests.crash.reference_flows import Clicks, Ledger, ReferenceFlow

from .conftest import MakeJob, Tell
from .pauses import Pauses

pytestmark = pytest.mark.crash

Group = ClusterGroup | SentinelGroup
Strike = Callable[[Group, Job, int], None]

ONE, TWO_PROCESSES = (1, 1), (2, 1)


def kill_primary(group: SentinelGroup, _job: Job, _generation: int) -> None:
    before = group.primary
    before.kill()
    group.wait_failed_over(before)


def order_failover(group: SentinelGroup, _job: Job, _generation: int) -> None:
    before = group.primary
    group.fail_over(before)
    group.wait_failed_over(before)


def primary_of_journal(group: ClusterGroup, job: Job, generation: int) -> ServerNode:
    return group.primary_of(job.keys.journal(0, generation))


def kill_node(group: ClusterGroup, job: Job, generation: int) -> None:
    """Kill the node that has the first journal."""
    node = primary_of_journal(group, job, generation)
    node.kill()
    group.wait_failed_over(node, job.keys.journal(0, generation))


def kill_node_of_cells(group: ClusterGroup, job: Job, generation: int) -> None:
    """Kill a node that has cells, and no journal of the first partition."""
    journal_node = primary_of_journal(group, job, generation)
    name = job.reference.sources[0]
    shard = next(
        shard
        for shard in range(64)
        if group.primary_of(job.keys.applied(name, shard)) is not journal_node
    )
    node = group.primary_of(job.keys.applied(name, shard))
    node.kill()
    group.wait_failed_over(node, job.keys.applied(name, shard))


def order_node_failover(group: ClusterGroup, job: Job, generation: int) -> None:
    before = primary_of_journal(group, job, generation)
    group.fail_over(before)
    group.wait_failed_over(before, job.keys.journal(0, generation))


def move_all(group: ClusterGroup, job: Job, generation: int) -> None:
    """Move the slots of the manifest, of the journals and of every shard to another node."""
    keys = [job.keys.manifest, *(job.keys.journal(p, generation) for p in range(2))]
    keys += [job.keys.applied(job.reference.sources[0], shard) for shard in range(64)]
    primaries = sorted({group.primary_of(key) for key in keys}, key=lambda node: node.port)
    for key in keys:
        here = primaries.index(group.primary_of(key))
        group.move_slot(slot_of(key), primaries[(here + 1) % len(primaries)])
    group.wait_recovered()


def strike_and_compare(
    group: Group, job: Job, shape: tuple[int, int], strikes: list[Strike], tell: Tell
) -> None:
    execution = job.start(*shape)
    resumed = job.reach_midstream(execution)
    with Pauses(job, execution, resumed.generation, shape[0]) as pauses:
        pauses.wait_epochs(2)
        quiet, pauses.longest = pauses.longest, 0.0
        for strike in strikes:
            strike(group, job, resumed.generation)
            pauses.wait_epochs(5)
    assert execution.alive, execution.said
    execution.kill_groups()
    execution.lose_scratch()
    tell(f"longest pause {pauses.longest:.2f} s (before: {quiet:.2f} s)")
    job.finish(*shape, after=resumed)
    assert job.differences() == []
    assert job.leftover_keys() == []


def in_short(strikes: list[Strike], name: str) -> object:
    return pytest.param(strikes, "redis-7.0", ONE, Clicks(160_000), id=name)


def at_length(*strikes: Strike) -> list[object]:
    return [
        pytest.param(
            [strike],
            flavour,
            shape,
            reference,
            id=f"{strike.__name__}-{flavour}-{shape[0]} processes-{reference.flow_id}",
            marks=pytest.mark.long,
        )
        for strike in strikes
        for flavour in ("redis-7.0", "valkey-8")
        for shape, reference in ((ONE, Clicks(160_000)), (TWO_PROCESSES, Ledger(30_000)))
    ]


@pytest.mark.parametrize(
    ("strikes", "flavour", "shape", "reference"),
    [in_short([kill_primary], "kill"), *at_length(kill_primary, order_failover)],
)
def test_after_a_failover_of_the_primary_that_sentinels_watch_all_is_exact(
    start_group: Callable[..., Group],
    make_job: MakeJob,
    tell: Tell,
    strikes: list[Strike],
    flavour: str,
    shape: tuple[int, int],
    reference: ReferenceFlow,
) -> None:
    group = start_group("sentinel", flavour, replicas=1)
    strike_and_compare(group, make_job(group.url, reference), shape, strikes, tell)


@pytest.mark.parametrize(
    ("strikes", "flavour", "shape", "reference"),
    [
        in_short([move_all, kill_node], "move and kill"),
        *at_length(kill_node, kill_node_of_cells, order_node_failover, move_all),
    ],
)
def test_after_a_failover_or_a_move_of_slots_of_a_cluster_all_is_exact(
    start_group: Callable[..., Group],
    make_job: MakeJob,
    tell: Tell,
    strikes: list[Strike],
    flavour: str,
    shape: tuple[int, int],
    reference: ReferenceFlow,
) -> None:
    group = start_group("cluster", flavour)
    strike_and_compare(group, make_job(group.url, reference), shape, strikes, tell)
