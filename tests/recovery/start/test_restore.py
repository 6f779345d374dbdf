"""Restore: whole, or not at all."""

from __future__ import annotations

import pytest

from bytewax_redis_state.codec.envelope import MSGPACK, seal
from bytewax_redis_state.dataflow.shards.shard_names import shard_of_name, worker_of
from bytewax_redis_state.errors import DecodeError, StateLostError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.server.client import Client
from tests.recovery.conftest import KEYED, SHARDS, SOURCE, FlowInRedis


@pytest.fixture
def full(flow: FlowInRedis) -> FlowInRedis:
    """A flow with 300 keys and two source partitions, at its second generation."""
    flow.start([KEYED, SOURCE], parts={"in": ["p0", "p1"]})
    flow.commit(1, {f"k{n}": b"%d" % n * 10 for n in range(300)})
    flow.commit(2, {"p0": b"10", "p1": b"20"}, step="in")
    flow.start([KEYED, SOURCE], parts={"in": ["p0", "p1"]})
    return flow


def test_each_cell_is_one_row(full):
    restorer = full.restorer(workers=2)
    assert restorer.read() == {"in": 2, "sum": 300}
    rows = list(restorer.rows())
    keyed = {shard_of_name(name): name for step, name, _ in rows if step == KEYED.engine_id}
    assert set(keyed) == set(range(SHARDS))
    for shard, name in keyed.items():
        assert worker_of(name, 2) == shard % 2  # rule 14: spread evenly over the workers
    tickets = [data for step, _, data in rows if step == KEYED.engine_id]
    found = {}
    for shard, ticket in zip(keyed, tickets, strict=True):
        states = restorer.handover.take(ticket)
        assert {shard_of(key, SHARDS) for key in states} == {shard}
        found |= states
    assert len(found) == 300
    sources = {name for step, name, _ in rows if step == SOURCE.engine_id}
    assert sources == {"p0", "p1"}
    assert not restorer.cells, "rows let go of what they gave"


def test_no_state_of_a_keyed_step_goes_through_a_file(full):
    """Rule 18: whatever the size of a cell, its row is far below SQLite's limit."""
    restorer = full.restorer()
    restorer.read()
    rows = [data for step, _, data in restorer.rows() if step == KEYED.engine_id]
    assert len(rows) == SHARDS
    assert max(map(len, rows)) < 50


def test_shards_of_other_processes_are_left_to_them(full):
    halves = [full.restorer(shards=frozenset(mine)) for mine in ({0, 1}, {2, 3})]
    counts = [half.read() for half in halves]
    assert sum(c["sum"] for c in counts) == 300
    assert sum(c["in"] for c in counts) == 2
    names = [{name for _, name, _ in half.rows()} for half in halves]
    assert not names[0] & names[1]


def test_progress_reaches_the_total(full):
    seen = []
    full.restorer(progress=lambda done, total: seen.append((done, total))).read()
    assert seen[-1] == (302, 302)


def test_an_evicted_key_stops_the_start(full, client: Client):
    """Rule 10: live counts must be equal. Delete a key as an eviction would."""
    shard = shard_of("k7", SHARDS)
    client.delete(full.keys.state("sum", shard, "k7"))
    with pytest.raises(
        StateLostError, match=rf"shard {shard} of step 'sum' has \d+ keys"
    ) as caught:
        full.restorer().read()
    assert "evicted" in caught.value.message


def test_a_key_where_all_cells_count_none_stops_the_start(flow, client: Client):
    """Rule 10: cells that were made again beside the keys of an older life."""
    flow.start([KEYED])
    flow.start([KEYED])
    shard = shard_of("k7", SHARDS)
    client.set(flow.keys.state("sum", shard, "k7"), seal("k7", MSGPACK, b"of an older life"))
    with pytest.raises(StateLostError, match=rf"shard {shard} of step 'sum' has 1 keys .* 0 were"):
        flow.restorer().read()


def test_a_key_too_many_stops_the_start(full, client: Client):
    """Rule 10: the other way round too."""
    key = next(client.scan_iter(full.keys.state_pattern))
    step, shard, _ = full.keys.parse_state(key)
    client.hincrby(full.applied(shard, step), "count", -1)
    with pytest.raises(StateLostError, match="were written"):
        full.restorer().read()


def test_a_step_whose_keys_are_all_gone_stops_the_start(full, client: Client):
    for key in list(client.scan_iter(full.keys.state_pattern, 1000)):
        client.delete(key)
    with pytest.raises(StateLostError, match="has 0 keys"):
        full.restorer().read()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("generation", 3, "shard 1 of step 'sum' does not stand"),
        ("epoch", 1, "shard 1 of step 'sum' does not stand"),
        ("incarnation", "x", "shard 1 of step 'sum' is of another life"),
        ("count", None, "the field 'count' of '.*:applied:sum' is missing"),
    ],
)
def test_a_cell_that_stands_elsewhere_stops_the_start(full, client: Client, name, value, said):
    """Rule 7: what is restored is of one manifest; a start that was overtaken sees it here."""
    if value is None:
        client.hdel(full.applied(1), name)
    else:
        client.hset(full.applied(1), name, value)
    with pytest.raises(StateLostError, match=said):
        full.restorer().read()


def test_a_value_that_fails_its_check_is_named_by_its_key(full, client: Client):
    key = full.keys.state("sum", shard_of("k7", SHARDS), "k7")
    value = bytearray(client.get(key))
    value[-1] ^= 1
    client.set(key, bytes(value))
    with pytest.raises(DecodeError) as caught:
        full.restorer().read()
    assert key.decode() in str(caught.value)
    assert caught.value.hint


def test_a_neighbours_keys_are_not_read(full, namespace):
    other = FlowInRedis(full.client, namespace + "x")
    other.start()
    other.commit(1, {"a": b"1"})
    other.start()
    assert full.restorer().read() == {"in": 2, "sum": 300}
