"""The join barrier: who comes, who never comes, and who belongs to another cluster."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from bytewax_redis_state.errors import FlowRunningError, JoinTimeoutError
from bytewax_redis_state.recovery.records.lease import Lease, this_owner
from bytewax_redis_state.recovery.records.lease import _pid_started as pid_started
from bytewax_redis_state.recovery.start.join_barrier import (
    ClusterShape,
    wait_for_coordinator,
    wait_for_manifest,
    wait_for_members,
)
from tests.recovery.conftest import FlowInRedis

SOON = timedelta(seconds=0.5)
LONG = timedelta(seconds=20)


def owner(process: int, cluster: str = "ours", **changes: object) -> Lease:
    return replace(this_owner(process, cluster, {}), **changes)


def post(flow: FlowInRedis, *leases: Lease) -> None:
    for lease in leases:
        flow.client.set(flow.keys.lease(lease.process), lease.to_json())


def members(flow: FlowInRedis, own: Lease, count: int, timeout=SOON, say=lambda _line: None):
    return wait_for_members(flow.client, flow.keys, own, count, timeout, say)


def coordinator(flow: FlowInRedis, cluster="ours", timeout=SOON, say=lambda _line: None):
    wait_for_coordinator(flow.client, flow.keys, cluster, timeout, say)


def test_a_process_alone_waits_for_nobody(flow):
    own = owner(0)
    assert members(flow, own, 1) == [own]


def test_processes_that_come_late_are_waited_for(flow):
    own, one, two = owner(0), owner(1), owner(2)
    post(flow, one)
    threading.Timer(0.3, post, (flow, two)).start()
    said = []
    assert members(flow, own, 3, LONG, said.append) == [own, one, two]
    assert said == ["waiting for process 2 to join"]


def test_a_process_that_never_joins_is_named(flow):
    post(flow, owner(2))
    with pytest.raises(JoinTimeoutError, match=r"process 1, 3 .* has not joined in 0:00:00\.5"):
        members(flow, owner(0), 4)


def test_members_of_another_cluster_do_not_count(flow):
    """Rule 5b: two clusters don't mix."""
    post(flow, owner(1, "theirs"))
    with pytest.raises(JoinTimeoutError, match="process 1"):
        members(flow, owner(0), 2)


def test_a_member_that_was_killed_while_it_joined_does_not_count(flow):
    """Its lease outlives it: a start that took it in would be over before it ran."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        dead = owner(1, pid=process.pid, pid_started=pid_started(process.pid))
        assert not dead.owner_is_dead
        process.kill()
    post(flow, dead)
    with pytest.raises(JoinTimeoutError, match="process 1"):
        members(flow, owner(0), 2)
    alive = owner(1)
    threading.Timer(0.3, post, (flow, alive)).start()
    assert members(flow, own := owner(0), 2, LONG) == [own, alive]


def test_a_member_that_still_runs_does_not_count(flow):
    """Rule 5b: the restart of one process is a new generation for all."""
    post(flow, owner(1, phase="running"))
    with pytest.raises(JoinTimeoutError, match="process 1"):
        members(flow, owner(0), 2)


def test_a_coordinator_that_comes_late_is_waited_for(flow):
    threading.Timer(0.3, post, (flow, owner(0))).start()
    said = []
    coordinator(flow, timeout=LONG, say=said.append)
    assert said == ["waiting for process 0 to join"]


def test_no_coordinator_is_an_error(flow):
    with pytest.raises(JoinTimeoutError, match="process 0"):
        coordinator(flow)


def test_another_clusters_coordinator_is_named(flow):
    post(flow, owner(0, "theirs", host="far"))
    with pytest.raises(FlowRunningError, match="process 0 on host far"):
        coordinator(flow)


def test_only_a_manifest_with_ones_own_id_is_a_start(flow):
    """Rules 5b and 7: an old manifest, or another cluster's, is not one to start from."""
    flow.start(processes=2)
    with pytest.raises(JoinTimeoutError, match="no generation with this process"):
        wait_for_manifest(flow.client, flow.keys, owner(1), SOON)
    mine = owner(1, id="id1")
    assert wait_for_manifest(flow.client, flow.keys, mine, SOON) == flow.manifest


def test_a_coordinator_that_folds_for_long_is_waited_for(flow):
    flow.start()
    post(flow, owner(0))
    waited = threading.Event()

    def end() -> None:
        time.sleep(1.2)
        waited.set()
        flow.client.delete(flow.keys.lease(0))

    threading.Thread(target=end).start()
    with pytest.raises(JoinTimeoutError):
        wait_for_manifest(flow.client, flow.keys, owner(1), SOON)
    assert waited.is_set()


def test_shape_and_addresses_tell_clusters_apart():
    base = ClusterShape(0, 2, 1, ("a:1", "b:1"))
    others = [
        replace(base, process_count=3),
        replace(base, worker_count=2),
        replace(base, addresses=("a:1", "b:2")),
    ]
    digests = {shape.digest("steps") for shape in (base, *others)} | {base.digest("other steps")}
    assert len(digests) == 5
    assert replace(base, process_id=1).digest("steps") == base.digest("steps")
    assert base.workers == 2
