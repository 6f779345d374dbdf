"""What another program has written into a flow's records: refused, with key, field and value."""

from __future__ import annotations

import pytest

from bytewax_redis_state.errors import StateError, StateLostError
from bytewax_redis_state.server.translation import translated
from tests.recovery.conftest import FlowInRedis

NO_NUMBERS = [
    "text",
    "",
    "1.5",
    "-1",
    "1e3",
    "0x10",
    " 1",
    "1_0",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "9" * 19,
]
PROGRESS = ["epoch", "row", "trimmed", "time", "entries", "safe"]
CELL = ["epoch", "count", "p0", "mark0", "d1700000000000"]
MANIFEST = ["partitions", "resume_epoch", "shards", "format", "allowance", "time"]


def refused(flow: FlowInRedis) -> StateError:
    with pytest.raises(StateError) as caught, translated("redis"):
        flow.start()
    return caught.value


def check(flow: FlowInRedis, key: bytes, field: str, value: str) -> None:
    before = flow.client.dump(key)
    flow.client.hset(key, field, value)
    for _ in range(2):
        error = refused(flow)
        assert type(error) is StateLostError
        assert f"the field {field!r} of {key.decode()!r} is {value!r}, not " in error.message
        assert "backup" in error.hint
        assert "--namespace" in error.hint
    flow.client.restore(key, 0, before, replace=True)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_number_that_is_none_stops_the_start_and_is_named(started, value):
    started.commit(1, {"a": b"1", "b": b"1", "c": b"1"})
    for field in PROGRESS:
        check(started, started.keys.progress(0, 1), field, value)
    for field in CELL:
        check(started, started.applied(1), field, value)
    for field in MANIFEST:
        check(started, started.keys.manifest, field, value)
    started.start()
    assert started.state() == {"a": b"1", "b": b"1", "c": b"1"}


@pytest.mark.parametrize("value", ["text", "", "-1", "1.5", "-abc", " 1-a"])
def test_a_token_that_is_none_stops_the_start_and_is_named(started, value):
    check(started, started.keys.progress(0, 1), "fenced", value) if value != "-1" else None
    for key in (started.applied(1), started.keys.progress(0, 1), started.keys.manifest):
        before = started.client.dump(key)
        started.client.hset(key, "generation", value)
        error = refused(started)
        assert type(error) is StateLostError
        assert key.decode() in error.message
        assert repr(value) in error.message
        started.client.restore(key, 0, before, replace=True)
    started.start()


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_running_flow_names_a_number_that_is_none(started, value):
    """A fold that believed 10^19 would skip every epoch, and the journal would be trimmed."""
    started.commit(1, {"a": b"1"})
    for field in ("epoch", "count", "p0", "mark0", "chunk0"):
        for shard in range(4):
            started.client.hset(started.applied(shard), field, value)
        with pytest.raises(StateLostError) as caught, translated("redis"):
            started.journal_fold().fold(started.journal(), 0, 1)
        assert f"the field '{field}' of '{started.keys.manifest.decode()[:-10]}" in str(
            caught.value
        )
        shown = "".join(c if " " <= c <= "~" else "??" for c in value)
        assert f"is '{shown}', not a number" in caught.value.message
        for shard in range(4):
            right = {"epoch": "0", "count": "0"}.get(field)
            if right is None:
                started.client.hdel(started.applied(shard), field)
            else:
                started.client.hset(started.applied(shard), field, right)
    started.journal_fold().fold(started.journal(), 0, 1)
    assert started.state() == {"a": b"1"}
