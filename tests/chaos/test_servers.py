"""Servers of a trial that take over from each other: what a failover of theirs loses, and when."""

from __future__ import annotations

import pytest

from bytewax_redis_state.chaos.network.proxy import Proxy
from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.sentinel_group import SentinelGroup
from bytewax_redis_state.keys import hash_tag_of

KEY = b"{a tag}key"


@pytest.fixture(params=[SentinelGroup, ClusterGroup])
def group(request, server_binary, tmp_path):
    made = request.param(server_binary, tmp_path / "group", replicas=1, behind_proxy=True)
    proxy = Proxy(made.listeners(1))
    proxy.start()
    try:
        yield made.start()
    finally:
        made.stop()
        proxy.stop()


def put(group, value: bytes) -> None:
    group.primary_of(KEY).client.set(KEY, value)


def found(group, key: bytes = KEY) -> bytes | None:
    return group.primary_of(KEY).client.get(key)


def test_a_replica_takes_over_without_the_tail_and_back_with_everything(group):
    """They reach each other through listeners, as in a trial."""
    put(group, b"kept")
    assert group.primary_of(KEY).client.wait(1, 10_000) == 1
    killed = group.lose_tail(KEY, lambda: put(group, b"lost"))
    successor = group.primary_of(KEY)
    assert successor is not killed
    assert found(group) == b"kept"
    assert found(group, b"{%b}filling" % hash_tag_of(KEY)) is None
    group.rejoin(killed)
    group.wait_recovered()
    assert group.replicas_of(successor) == [killed]
    put(group, b"kept too")
    group.fail_over(successor)
    assert group.wait_failed_over(successor, KEY) is killed
    assert found(group) == b"kept too"
