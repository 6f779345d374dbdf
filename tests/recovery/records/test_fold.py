"""Folding: the keyed state is what a dict would be, however often a fold dies and begins again."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytewax_redis_state.errors import FencedError, ServerUnavailableError, StateLostError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.records import fold as module
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.server.client import Client
from tests.recovery.conftest import SHARDS, FlowInRedis

keys = st.sampled_from([f"k{n}" for n in range(8)])
deltas = st.dictionaries(keys, st.one_of(st.none(), st.binary(max_size=6)), max_size=6)


def lane(flow: FlowInRedis, shard: int, partition: int = 0) -> int:
    return int(flow.client.hget(flow.applied(shard), f"p{partition}") or 0)


@given(
    epochs=st.lists(deltas, min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 30), max_size=4),
    chunk=st.integers(1, 3),
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_redis_equals_a_dict(client: Client, monkeypatch, epochs, cuts, chunk):
    """Rule 8: kill folds between any two chunks; keys, applied and counts end up right."""
    client.flushdb()
    monkeypatch.setattr(module, "_CHUNK_KEYS", chunk)
    monkeypatch.setattr(module, "_PIPELINE_CHUNKS", 1)
    flow = FlowInRedis(client, "dict")
    flow.start()
    expected: dict[str, bytes] = {}
    for epoch, delta in enumerate(epochs, 1):
        flow.commit(epoch, delta)
        for key, value in delta.items():
            expected.pop(key, None)
            if value is not None:
                expected[key] = value
    for number, cut in enumerate(cuts):
        to = 1 + (number * len(epochs)) // len(cuts)  # further each time, as a checkpoint goes
        fold_and_die(flow, monkeypatch, to, cut)
    flow.journal_fold().fold(flow.journal(), 0, len(epochs))
    assert flow.state() == expected
    assert flow.counts() == len(expected)
    assert {lane(flow, shard) for shard in range(SHARDS)} == {len(epochs)}
    flow.start()
    assert flow.restorer().read() == {"sum": len(expected)}


class Died(BaseException):
    pass


def fold_and_die(flow: FlowInRedis, monkeypatch, to: int, after: int) -> None:
    """Fold, and die once so many chunks have been applied."""
    done = 0
    real = flow.scripts.fold

    def fold(*args, **kwargs):
        nonlocal done
        if done >= after:
            raise Died
        done += 1
        with flow.client.pipeline(transaction=False) as pipe:
            real(*args, **(kwargs | {"on": pipe}))
            pipe.execute()
        # The caller's pipeline must get an answer for each chunk.
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(flow.scripts, "fold", fold)
        with suppress(Died):
            flow.journal_fold().fold(flow.journal(), 0, to)


def test_hot_keys_are_written_once(started):
    for epoch in range(1, 21):
        started.commit(epoch, {"hot": b"%d" % epoch, f"cold{epoch}": b"x"})
    assert started.journal_fold().fold(started.journal(), 0, 20) == 21
    assert started.state()["hot"] == b"20"


def test_unchanged_cells_move_too(started):
    """Rule 8: every checkpoint moves all its cells."""
    started.commit(1, {"a": b"1"})
    started.journal_fold().fold(started.journal(), 0, 1)
    assert [lane(started, shard) for shard in range(SHARDS)] == [1] * SHARDS


def test_a_fold_again_changes_nothing(started):
    started.commit(1, {"a": b"1", "b": b"2"})
    started.commit(2, {"b": None})
    started.journal_fold().fold(started.journal(), 0, 2)
    before = started.dump()
    started.journal_fold().fold(started.journal(), 0, 2)
    started.journal_fold().fold(started.journal(), 0, 1)
    assert started.dump() == before


def test_a_cell_with_more_keys_than_a_chunk(started):
    """Rule 8: in chunks of about 1,000 keys, marked in between."""
    names = [f"k{n}" for n in range(20_000)]
    names = [name for name in names if shard_of(name, SHARDS) == 1][:2500]
    started.commit(1, dict.fromkeys(names, b"x"))
    assert started.journal_fold().fold(started.journal(), 0, 1) == 2500
    assert (len(started.state()), started.counts()) == (2500, 2500)
    assert not started.client.hexists(started.applied(1), "mark0")
    started.commit(2, dict.fromkeys(names, None))
    started.journal_fold().fold(started.journal(), 1, 2)
    assert (started.state(), started.counts()) == ({}, 0)


def test_values_larger_than_a_chunk(started):
    big = {f"k{n}": b"x" * (3 << 20) for n in range(4)}
    started.commit(1, big)
    started.journal_fold().fold(started.journal(), 0, 1)
    assert started.state() == big


def test_rounds_are_bounded_by_bytes(started, monkeypatch):
    """A long journal folds in rounds; each leaves every cell at an epoch of its own."""
    monkeypatch.setattr(module, "_ROUND_BYTES", 100)
    reached = []
    real = module.JournalFold._apply

    def apply(self, part, from_epoch, channels):
        reached.append((from_epoch, part.to_epoch))
        return real(self, part, from_epoch, channels)

    monkeypatch.setattr(module.JournalFold, "_apply", apply)
    for epoch in range(1, 11):
        started.commit(epoch, {"a": b"%d" % epoch * 60, "b": b"x" * 60})
    started.journal_fold().fold(started.journal(), 0, 10)
    assert len(reached) > 3
    assert reached[0][0] == 0
    assert reached[-1][1] == 10
    assert all(one[1] == two[0] for one, two in pairwise(reached))
    assert started.state()["a"] == b"10" * 60


def test_partitions_fold_apart(flow):
    flow.start(processes=2)
    flow.commit(1, {"a": b"1"}, partition=0)
    flow.commit(1, {"b": b"1"}, partition=1)
    flow.journal_fold(0).fold(flow.journal(0), 0, 1)
    assert flow.state() == {"a": b"1"}
    flow.journal_fold(1).fold(flow.journal(1), 0, 1)
    assert flow.state() == {"a": b"1", "b": b"1"}
    assert flow.counts() == 2


def test_a_gap_is_lost_state_and_the_cell_is_named(started):
    """Rule 8: refuse if applied is before from."""
    started.commit(5, {"a": b"5"})
    with pytest.raises(StateLostError, match=r"shard 0 of step 'sum' has applied epoch 0, not 3"):
        started.journal_fold().fold(started.journal(), 3, 5)
    assert started.state() == {}


def test_a_fold_of_what_the_journal_has_lost_is_put_off(started):
    """Rule 9: Redis went back after the replicator had looked how far the journal reaches."""
    started.commit(1, {"a": b"1"})
    before = started.dump()
    with pytest.raises(ServerUnavailableError, match="ends before epoch 2, not after 2"):
        started.journal_fold().fold(started.journal(), 0, 2)
    assert started.dump() == before


def test_a_missing_or_foreign_cell_is_lost_state(started):
    started.commit(1, {})
    with pytest.raises(StateLostError, match="is of another life"):
        started.journal_fold(incarnation="other").fold(started.journal(), 0, 1)
    started.client.delete(started.applied(0))
    with pytest.raises(StateLostError, match="shard 0 of step 'sum' is missing"):
        started.journal_fold().fold(started.journal(), 0, 1)


def test_an_older_generation_is_fenced(started):
    started.commit(1, {})
    with pytest.raises(FencedError, match="generation 0 of the flow was taken over"):
        started.journal_fold(token=Token(0)).fold(started.journal(), 0, 1)


def test_a_cell_whose_first_chunk_is_refused_does_not_count_as_folded(started, monkeypatch):
    """As a slot under way refuses one chunk and takes the next; here it is a user's rights."""
    monkeypatch.setattr(module, "_CHUNK_KEYS", 1)
    first, last = [key for n in range(99) if shard_of(key := f"k{n}", SHARDS) == 1][:2]
    started.commit(1, {first: b"1", last: b"2"})
    client = started.client
    rules = ("reset", "on", "nopass", "+@all", "~*:applied:*", "~*:journal:*", f"~*:sum:{last}")
    client.execute_command("ACL SETUSER", "narrow", *rules)
    options = client.connection_pool.connection_kwargs
    narrow = redis.Redis(port=options["port"], db=options["db"], username="narrow", password="x")
    with narrow, pytest.raises(redis.ResponseError, match="key"):
        started.journal_fold(client=narrow).fold(started.journal(), 0, 1)
    started.journal_fold().fold(started.journal(), 0, 1)
    assert started.state() == {first: b"1", last: b"2"}
    client.acl_deluser("narrow")
