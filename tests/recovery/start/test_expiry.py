"""Expiry in Redis: the flow's time, what goes missing rightly, and what does not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bytewax_redis_state.errors import FencedError, StateExpiredError, StateLostError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.start.expiry import (
    count_out_expired,
    expired_keys,
    extend_expiries,
    refuse_expired,
)
from bytewax_redis_state.server.client import server_time
from tests.recovery.conftest import SHARDS, FlowInRedis

DAY = 24 * 3600 * 1000
KEPT = timedelta(days=2)


def flow_now(flow: FlowInRedis) -> int:
    return server_time(flow.client) - flow.manifest.downtime


def stand_still(flow: FlowInRedis, milliseconds: int) -> None:
    """Let as much time seem to have passed since the flow's last commit, on Redis's clock."""
    generation, partitions = flow.manifest.generation, flow.manifest.partitions
    for partition in range(partitions):
        flow.client.hincrby(flow.keys.progress(partition, generation), "time", -milliseconds)
    flow.client.hincrby(flow.keys.manifest, "time", -milliseconds)


def begin_long_ago(flow: FlowInRedis, milliseconds: int) -> None:
    """Move all that Redis knows of time into the past, expiries and deadlines' clock alike."""
    stand_still(flow, milliseconds)
    flow.client.hincrby(flow.keys.manifest, "downtime", -milliseconds)
    for shard in range(SHARDS):
        if flow.client.hexists(flow.applied(shard), "slack"):
            flow.client.hincrby(flow.applied(shard), "slack", -milliseconds)
    for key in list(flow.client.scan_iter(flow.keys.state_pattern, 1000)):
        left = flow.client.pttl(key)
        if left > 0:
            flow.client.pexpire(key, left - milliseconds)


def pttls(flow: FlowInRedis) -> dict[str, int]:
    found = flow.client.scan_iter(flow.keys.state_pattern, 1000)
    return {flow.keys.parse_state(key)[2]: flow.client.pttl(key) for key in found}


@pytest.fixture
def timed(flow: FlowInRedis) -> FlowInRedis:
    """A flow at its second generation: 40 keys with a deadline in two days, 10 without."""
    flow.start(retention=KEPT)
    deadline = flow_now(flow) + 2 * DAY
    flow.commit(1, {f"k{n}": b"%d" % n for n in range(40)}, deadline=deadline)
    flow.commit(2, {f"open{n}": b"%d" % n for n in range(10)})
    flow.start(retention=KEPT)
    return flow


def restored(flow: FlowInRedis) -> tuple[dict[str, int], int]:
    restorer = flow.restorer()
    counts = restorer.read()
    return counts, sum(sum(gone.values()) for gone in restorer.expired.values())


# --- the flow's time -----------------------------------------------------------------------------


def test_downtime_is_what_passed_since_the_last_commit(timed):
    downtime = timed.manifest.downtime
    stand_still(timed, 3 * DAY)
    timed.start(retention=KEPT)
    assert 3 * DAY <= timed.manifest.downtime - downtime < 3 * DAY + 60_000
    assert read_manifest(timed.client, timed.keys) == timed.manifest


def test_a_commit_ends_the_downtime(timed):
    stand_still(timed, 3 * DAY)
    timed.commit(3, {"k0": b"0"})
    downtime = timed.manifest.downtime
    timed.start(retention=KEPT)
    assert timed.manifest.downtime - downtime < 60_000


def test_the_latest_commit_of_all_partitions_counts(flow):
    flow.start(processes=2, retention=KEPT)
    flow.commit(1, {"a": b"1"}, partition=0)
    stand_still(flow, 3 * DAY)
    flow.commit(1, {"b": b"1"}, partition=1)
    flow.start(retention=KEPT)
    assert flow.manifest.downtime < 60_000


def test_a_first_start_has_no_downtime(flow):
    flow.start(retention=KEPT)
    assert (flow.manifest.downtime, flow.manifest.allowance) == (0, 7 * DAY)
    assert flow.manifest.retention == {"sum": 2 * DAY}


# --- expiries ------------------------------------------------------------------------------------


def test_redis_keeps_a_key_for_the_allowance_beyond_its_deadline(timed):
    found = pttls(timed)
    assert {key: ttl for key, ttl in found.items() if ttl == -1} == {
        f"open{n}": -1 for n in range(10)
    }
    assert all(9 * DAY - 60_000 < ttl <= 9 * DAY for key, ttl in found.items() if key[0] == "k")


def test_a_step_without_retention_has_no_expiry_even_with_deadlines_in_the_journal(timed):
    """The step is to be kept for ever from this start on; its old deadlines stay counted."""
    timed.commit(3, {"k0": b"0"}, deadline=flow_now(timed) + DAY)
    timed.start()
    assert timed.manifest.retention == {}
    assert restored(timed) == ({"sum": 50}, 0)
    timed.commit(4, {f"k{n}": b"again" for n in range(40)})
    timed.start()
    assert set(pttls(timed).values()) == {-1}
    assert restored(timed) == ({"sum": 50}, 0)


def test_deadlines_that_were_never_folded_are_counted_when_the_retention_ends(flow):
    """The journal of the start before has them, and a later start has a retention again."""
    flow.start(retention=KEPT)
    deadline = flow_now(flow) + DAY
    flow.commit(1, {f"k{n}": b"1" for n in range(40)}, deadline=deadline)
    flow.start()
    assert restored(flow) == ({"sum": 40}, 0)
    flow.start(retention=KEPT)
    flow.commit(2, {f"k{n}": b"2" for n in range(20)}, deadline=deadline + DAY)
    flow.start(retention=KEPT)
    assert restored(flow) == ({"sum": 40}, 0)


def test_what_is_folded_after_a_long_stop_is_kept_as_long(timed):
    """The journal's deadlines are of the flow's time, which stood still."""
    timed.commit(3, {"late": b"1"}, deadline=flow_now(timed) - 29 * DAY)
    stand_still(timed, 30 * DAY)
    timed.start(retention=KEPT)
    assert 8 * DAY - 60_000 < pttls(timed)["late"] <= 8 * DAY


def test_expiries_move_on_when_the_flow_stood_still_for_half_the_allowance(timed):
    assert list(timed.restorer().overdue()) == []
    for days, due in [(3, False), (1, True)]:
        stand_still(timed, days * DAY)
        timed.start(retention=KEPT)
        restorer = timed.restorer()
        restorer.read()
        cells = dict(restorer.overdue())
        assert bool(cells) == due
        for cell, states in cells.items():
            extend_expiries(timed.store, timed.manifest.offset, cell, states)
        count_out_expired(timed.store, timed.manifest.offset, {}, frozenset(cells))
    found = pttls(timed)
    assert all(found[f"open{n}"] == -1 for n in range(10))
    assert all(13 * DAY - 60_000 < found[f"k{n}"] <= 13 * DAY for n in range(40))
    again = timed.restorer()
    again.read()
    assert list(again.overdue()) == []


def test_an_overtaken_start_moves_and_counts_nothing(timed):
    mine = timed.manifest
    timed.start(retention=KEPT)
    restorer = timed.restorer()
    restorer.read()
    cell, states = next(iter(restorer._cells.items()))
    before = timed.dump()
    with pytest.raises(FencedError):
        extend_expiries(timed.store_of(mine), mine.offset, cell, states)
    with pytest.raises(FencedError):
        count_out_expired(timed.store_of(mine), mine.offset, {cell: {1: 1}})
    assert timed.dump() == before


# --- what has gone -------------------------------------------------------------------------------


def test_a_stop_shorter_than_the_allowance_loses_nothing(timed):
    begin_long_ago(timed, 8 * DAY)
    timed.start(retention=KEPT)
    assert restored(timed) == ({"sum": 50}, 0)


def test_a_longer_stop_is_told_apart_from_eviction(timed):
    """Redis really drops the keys here: their expiries lie in the past by then."""
    begin_long_ago(timed, 10 * DAY)
    assert expired_keys(timed.client, timed.keys, timed.manifest) == {"sum": 40}
    timed.start(retention=KEPT)
    restorer = timed.restorer()
    assert restorer.read() == {"sum": 10}
    count_out_expired(timed.store, timed.manifest.offset, restorer.expired)
    assert timed.counts() == 10
    assert restored(timed) == ({"sum": 10}, 0), "counted out once"
    assert expired_keys(timed.client, timed.keys, timed.manifest) == {}


def test_an_evicted_key_beside_expired_ones_stops_the_start(timed):
    begin_long_ago(timed, 10 * DAY)
    timed.client.delete(timed.keys.state("sum", shard_of("open3", SHARDS), "open3"))
    timed.start(retention=KEPT)
    with pytest.raises(StateLostError, match=r"keys in Redis, \d+ were written"):
        timed.restorer().read()


def test_a_key_with_a_deadline_that_goes_too_early_stops_the_start(timed):
    timed.client.delete(timed.keys.state("sum", shard_of("k7", SHARDS), "k7"))
    with pytest.raises(StateLostError, match="0 have expired"):
        timed.restorer().read()


def test_a_key_in_place_of_another_stops_the_start(timed):
    """The number of keys is right, that of the deadlines is not."""
    keys = timed.keys
    shard = shard_of("k7", SHARDS)
    other = next(f"x{n}" for n in range(99) if shard_of(f"x{n}", SHARDS) == shard)
    from bytewax_redis_state.codec.envelope import MSGPACK, seal

    timed.client.delete(keys.state("sum", shard, "k7"))
    timed.client.set(keys.state("sum", shard, other), seal(other, MSGPACK, b"1"))
    with pytest.raises(StateLostError):
        timed.restorer().read()


def test_to_fail_says_how_many_of_which_step():
    refuse_expired({})
    with pytest.raises(StateExpiredError, match=r"1,234 keys of step 'sum'") as caught:
        refuse_expired({"sum": 1234})
    assert "--on-expired=continue" in caught.value.hint


def test_a_key_that_redis_dropped_and_the_flow_wrote_again_is_no_error(timed):
    """Its old deadline can't be counted out any more; a resume finds that it has passed."""
    begin_long_ago(timed, 10 * DAY)
    timed.commit(3, {"k0": b"new"}, deadline=flow_now(timed) + 30 * DAY)
    timed.start(retention=KEPT)
    counts, gone = restored(timed)
    assert (counts, gone) == ({"sum": 11}, 40)
