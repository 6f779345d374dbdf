"""The client of a cluster: commands go where they belong, once, also while slots move."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from redis.exceptions import MovedError, RedisError, ResponseError, TryAgainError

from bytewax_redis_state import RedisStateBackend
from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.servers.node import wait_until
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.errors import ServerUnavailableError, ServerUnfitError
from bytewax_redis_state.keys import slot_of
from bytewax_redis_state.server.client import Client, address_of, connect, servers_of
from bytewax_redis_state.server.probe import probe_all
from bytewax_redis_state.server.replicas import execute_confirmed
from bytewax_redis_state.server.slots import SlotTable, key_of
from bytewax_redis_state.server.translation import translate_error, translated

ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@pytest.fixture
def client(shared_cluster: ClusterGroup) -> Iterator[Client]:
    with connect(RedisConfig(url=shared_cluster.url)) as client:
        for server in servers_of(client):
            server.flushall()
        yield client


def test_keys_are_where_their_slots_are_and_one_scan_finds_all(client):
    names = [b"k%d" % n for n in range(500)]
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.set(name, name)
        assert pipe.execute() == [True] * 500
    assert [client.get(name) for name in names[:20]] == names[:20]
    per_node = [server.dbsize() for server in servers_of(client)]
    assert len(per_node) == 3
    assert min(per_node) > 50
    assert set(client.scan_iter(count=10)) == set(names)


def test_a_pipeline_keeps_the_order_of_its_answers_and_runs_scripts_on_every_node(client):
    add = client.register_script(ADD)
    with client.pipeline(transaction=False) as pipe:
        for n in range(30):
            add(keys=[f"n{n}"], args=[n], client=pipe)
        assert pipe.execute() == list(range(30))
    for server in servers_of(client):
        server.script_flush()
    assert add(keys=["n7"], args=[1]) == 8
    with client.pipeline(transaction=False) as pipe:
        for n in range(30):
            pipe.mget(f"n{n}", f"n{n}")
        assert pipe.execute()[5] == [b"5", b"5"]


def test_an_error_in_a_pipeline_is_raised_and_the_rest_is_done(client):
    client.set("text", "x")
    with client.pipeline(transaction=False) as pipe, pytest.raises(redis.ResponseError):
        pipe.incr("text").incr("a").incr("b").incr("c").execute()
    assert client.mget("a") + client.mget("b") + client.mget("c") == [b"1"] * 3


def test_commands_follow_a_slot_that_is_half_moved_and_one_that_has_moved(
    client, shared_cluster: ClusterGroup
):
    tag, group = b"{moving}", shared_cluster
    slot = slot_of(tag)
    source = group.primary_of(tag)
    target = next(n for n in group.nodes if n is not source)
    keys = [b"%b%d" % (tag, n) for n in range(40)]
    for key in keys:
        client.set(key, key)
    group.begin_move(slot, target)
    group.move_some(slot, target, 20)
    add = client.register_script(ADD)
    assert [client.get(key) for key in keys] == keys
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key)
        add(keys=[tag + b"new"], args=[3], client=pipe)  # the target does not know the script
        assert pipe.execute() == [*keys, 3]
    group.move_some(slot, target, 40)
    group.end_move(slot, target)
    assert client.mget(keys) == keys
    assert add(keys=[tag + b"new"], args=[1]) == 4


def test_a_wait_never_answers_for_another_node_than_the_one_that_wrote(
    client, shared_cluster: ClusterGroup
):
    tag, group = b"{waited}", shared_cluster
    client.set(tag, 1)
    source = group.primary_of(tag)
    group.move_slot(slot_of(tag), next(n for n in group.nodes if n is not source))
    with client.pipeline(transaction=False) as pipe:
        pipe.set(tag, 2).wait(0, 100)
        with pytest.raises(TryAgainError):
            pipe.execute()
    with client.pipeline(transaction=False) as pipe:
        assert pipe.set(tag, 3).wait(0, 100).execute() == [True, 0]


def test_a_single_server_and_a_node_with_the_other_ones_url_are_told(
    redis_url, shared_cluster: ClusterGroup
):
    for node in shared_cluster.nodes:
        config = RedisConfig(url=f"redis://{node.address}")
        for open_one in (connect, RedisStateBackend):
            with pytest.raises(ServerUnfitError) as caught:
                open_one(config)
            assert str(caught.value) == (
                f"Redis at redis://{node.address}/0 is a node of a cluster, and the URL is that of "
                "a single server; write the URL as redis+cluster://…"
            )
    with pytest.raises(ServerUnfitError, match="not in a cluster"):
        connect(RedisConfig(url=redis_url.rpartition("/")[0], cluster_mode=True))


def test_keys_of_different_slots_in_one_command_are_no_bug_of_ours(shared_cluster: ClusterGroup):
    with pytest.raises(RedisError) as caught:
        shared_cluster.nodes[0].client.mget("a", "b", "c")
    for error in (caught.value, ResponseError("CROSSSLOT Keys in request …")):
        ours = translate_error(error, "there")
        assert isinstance(ours, ServerUnfitError)
        assert "give the keys of a transaction a common {tag}" in ours.hint


def test_a_redirection_that_nobody_follows_is_raised_at_once(shared_cluster: ClusterGroup):
    for node in shared_cluster.nodes:
        elsewhere = next(
            b"k%d" % n for n in range(99) if shared_cluster.primary_of(b"k%d" % n).port != node.port
        )
        began = time.monotonic()
        with pytest.raises(MovedError):
            execute_confirmed(node.client, lambda pipe, key=elsewhere: pipe.set(key, 1))
        assert time.monotonic() - began < 20


def test_every_primary_is_probed(client):
    found = probe_all(client)
    assert [info.mode for info in found] == ["cluster"] * 3
    assert len({info.address for info in found}) == 3
    assert address_of(client).startswith("redis+cluster://")


def test_a_node_that_is_away_is_our_error_until_its_replica_has_taken_over(start_group):
    group = start_group("cluster")
    config = RedisConfig(url=group.url, read_timeout=timedelta(seconds=3))
    with connect(config) as client:
        tag = b"{x}"
        client.set(tag, 1)
        for server in servers_of(client):
            server.wait(1, 5000)
        group.primary_of(tag).kill()
        with pytest.raises(ServerUnavailableError), translated(config.address):
            client.incr(tag)
        others = [b"k%d" % n for n in range(9) if group.primary_of(b"k%d" % n).alive]
        assert others
        assert wait_until(lambda: client.incr(tag), "the replica serves") == 2
        assert wait_until(lambda: [client.get(key) for key in others], "the others serve too")


# --- without a server -----------------------------------------------------------------------------


def test_a_slot_that_nobody_served_for_a_while_is_found_again(start_group):
    """No server is asked for such a key, so none could tell the client that it is served again."""
    group = start_group("cluster", replicas=0)
    slot, owner = slot_of(b"k"), group.primary_of(b"k")
    with connect(RedisConfig(url=group.url)) as client:
        client.set(b"k", b"kept")
        for node in group.nodes:
            node.client.execute_command("CLUSTER", "DELSLOTS", slot)
        client.forget()
        with pytest.raises(redis.ConnectionError, match=f"serves slot {slot}"):
            client.get(b"k")
        with client.pipeline(transaction=False) as pipe, pytest.raises(redis.ConnectionError):
            pipe.get(b"k").execute()
        owner.client.execute_command("CLUSTER", "ADDSLOTS", slot)
        wait_until(lambda: client.get(b"k") == b"kept", "the slot is found again")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "k"), b"k"),
        (("XINFO STREAM", b"k"), b"k"),
        (("MEMORY", "USAGE", b"k"), b"k"),
        (("EVALSHA", "sha", 2, b"a", b"b", 1), b"a"),
        (("EVAL", "return 1", 0), None),
        (("CLUSTER SLOTS",), None),
        (("wait", 1, 0), None),
    ],
)
def test_the_key_of_a_command(command, key):
    assert key_of(command) == key


def test_a_scan_over_nodes_that_changed_is_refused():
    asked = Host("h", 1)
    table = SlotTable([[0, 99, [b"", 1]], [100, 16383, [b"other", 2]]], asked)
    first, inner = table.split_cursor(0)
    assert (first, inner) == (asked, 0)
    cursor = table.join_cursor(first, 77)
    assert table.split_cursor(cursor) == (asked, 77)
    cursor = table.join_cursor(first, 0)
    assert table.split_cursor(cursor) == (Host("other", 2), 0)
    assert table.join_cursor(Host("other", 2), 0) == 0
    table.move(5, Host("third", 3))
    with pytest.raises(redis.ConnectionError, match="changed"):
        table.split_cursor(cursor)
