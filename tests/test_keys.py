"""The keyspace: keys are unique, can be read back, and stay out of each other's scans."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.server.client import Client

# What the scheme is made of, what globs are made of, and what escaping is made of.
names = st.text(st.sampled_from("ab/:{}%*?[]\\^- \n~.é2F5p0s1"), max_size=8)
free_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
shards = st.integers(0, 4095)


def tag(key: bytes) -> bytes:
    """The hash tag as Redis cuts it: between the first brace and the next closing one."""
    start = key.index(b"{")
    return key[start + 1 : key.index(b"}", start)]


@given(free_names | names, free_names | names, free_names | names, shards, free_names | names)
def test_a_state_key_can_be_read_back(namespace, flow, step, shard, key):
    keys = FlowKeys(namespace, flow)
    assert keys.parse_state(keys.state(step, shard, key)) == (step, shard, key)


@given(st.lists(st.tuples(names, names, names, shards, names), min_size=2, max_size=8, unique=True))
def test_two_different_states_never_share_a_key(places):
    made = {FlowKeys(ns, flow).state(step, shard, key) for ns, flow, step, shard, key in places}
    assert len(made) == len(places)


@given(names, names, names, names, names, shards, names)
def test_no_flow_reads_anothers_state(namespace, flow, namespace2, flow2, step, shard, key):
    one, other = FlowKeys(namespace, flow), FlowKeys(namespace2, flow2)
    if one != other:
        assert one.parse_state(other.state(step, shard, key)) is None


def every_key(keys: FlowKeys, step: str, shard: int) -> dict[str, bytes]:
    return {
        "generation": keys.generation,
        "manifest": keys.manifest,
        "lease": keys.lease(shard),
        "journal": keys.journal(shard, 7),
        "progress": keys.progress(shard, 7),
        "applied": keys.applied(step, shard),
        "state": keys.state(step, shard, "user:{x}"),
    }


@given(names, names, names, shards)
def test_kinds_of_keys_never_coincide(namespace, flow, step, shard):
    made = every_key(FlowKeys(namespace, flow), step, shard)
    assert len(set(made.values())) == len(made)
    state = made.pop("state")
    assert FlowKeys(namespace, flow).parse_state(state) is not None
    for key in made.values():
        assert FlowKeys(namespace, flow).parse_state(key) is None


@given(names, names, names, names, shards, free_names, free_names)
def test_keys_that_one_script_touches_share_a_slot(ns, flow, step, step2, shard, key, key2):
    """Rule 20: a hash tag for all that one script or MGET touches."""
    keys = FlowKeys(ns, flow)
    of_a_shard = [
        keys.applied(step, shard),
        keys.state(step, shard, key),
        keys.state(step2, shard, key2),
    ]
    of_a_partition = [keys.journal(shard, 1), keys.progress(shard, 1)]
    of_the_flow = [keys.generation, keys.manifest, keys.lease(0)]
    for group in (of_a_shard, of_a_partition, of_the_flow):
        assert len({tag(found) for found in group}) == 1
        assert len({key_slot(found) for found in group}) == 1
        assert all(tag(found) for found in group)  # Redis hashes the whole key on an empty tag


def test_names_that_look_alike_stay_apart_in_scans(client: Client):
    """Prefixes, globs, characters of the scheme: each pattern finds its own flow's keys only."""
    spaces = ["a", "ab", "a*", "a?", "[ab]", "a:{a}", "a\\", "a%3A", ""]
    flows = ["f", "fl", "f*", "f/s0", "f/p0}:journal", "[f]", "f}", "%66", ""]
    all_keys = {
        FlowKeys(ns, flow): set(every_key(FlowKeys(ns, flow), "s", 0).values())
        for ns in spaces
        for flow in flows
    }
    for one, other in combinations(all_keys.values(), 2):
        assert not one & other
    client.mset({key: b"" for keys in all_keys.values() for key in keys})
    for keys, own in all_keys.items():
        found = {key for pattern in keys.patterns for key in client.scan_iter(pattern, 10_000)}
        assert found == own
        assert set(client.scan_iter(keys.pattern, 10_000)) == own
        assert set(client.scan_iter(keys.state_pattern, 10_000)) == {keys.state("s", 0, "user:{x}")}
        partitions = {keys.journal(0, 7), keys.progress(0, 7)}
        assert set(client.scan_iter(keys.partition_pattern, 10_000)) == partitions


@given(free_names, st.integers(1, 4096))
def test_a_shard_is_within_range_and_stays(key, count):
    assert shard_of(key, count) in range(count)
    assert shard_of(key, count) == shard_of(key, count)


def test_shards_are_what_the_design_says_forever():
    """A change would orphan the state of every flow there is."""
    assert [shard_of(key, 64) for key in ("", "a", "user42", "é")] == [0, 3, 54, 62]
