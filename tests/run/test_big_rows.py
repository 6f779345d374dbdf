"""Rule 4: a row that is too large for one argument of Redis goes in pieces, and is resumed from."""

from __future__ import annotations

import re
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.codec import codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.dataflow.shards import shard
from bytewax_redis_state.errors import EncodeError
from bytewax_redis_state.server.client import connect

from .conftest import Runner, Sums

BIG = Path(__file__).parent / "big_flow.py"
OPTIONS = ("-s", "0.1", "--shards", "1", "--checkpoint-interval", "0.2")


def run_twice(run: Runner, url: str, keys: int, size: float) -> None:
    env = {"KEYS": str(keys), "SIZE": str(size)}
    options = (*OPTIONS, "--redis", url, "--max-lag", "3GB")
    done = run(*options, file=BIG, redis=False, EPOCHS="2", **env)
    assert done.returncode == 0, done.stderr
    assert "redis away" not in done.stderr
    sums = Sums(connect(RedisConfig(url=url)), "big")
    found = sums.state("turn")
    assert len(found) == keys
    assert set(found.values()) == {(2, b"\1" * int(size))}
    again = run(*options, file=BIG, redis=False, EPOCHS="3", **env)
    assert again.returncode == 0, again.stderr
    assert sorted(again.stdout.split("\n"))[1:] == sorted(f"{key} 3" for key in range(keys))


def test_many_states_of_one_shard_that_change_in_one_epoch(run: Runner, start_redis) -> None:
    """In a server that takes arguments of 1 MB: 15 MB, so that a row needs more than one append."""
    run_twice(run, start_redis("--proto-max-bulk-len", "1mb").url, 60, 250e3)


@pytest.mark.long
def test_more_in_one_epoch_than_redis_takes_in_an_argument(run: Runner, redis_url: str) -> None:
    run_twice(run, redis_url, 56, 10e6)


def big_flow(size: int) -> Dataflow:
    flow = Dataflow("big")
    keyed = op.key_on("key", op.input("in", flow, TestingSource([7])), str)
    op.output(
        "out", op.stateful_map("turn", keyed, lambda _s, n: (b"x" * size, n)), TestingSink([])
    )
    return flow


def test_a_state_that_no_redis_takes_is_refused_at_its_snapshot(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "MOST_STATE_BYTES", 5000)
    monkeypatch.setattr(shard, "_LARGE_BYTES", 5000)
    recovery = RedisRecovery(redis_url, scratch=tmp_path)
    said = r"step 'turn', key '7': the state has 6,0\d\d bytes .* Redis takes 5,000 at most"
    with pytest.raises(EncodeError, match=said):
        recovery.run(big_flow(6000))
    recovery.run(big_flow(4000))


def test_more_of_a_shard_in_an_epoch_than_sqlite_takes_is_refused(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_MOST_BYTES", 5000)
    recovery = RedisRecovery(redis_url, scratch=tmp_path)
    with pytest.raises(EncodeError, match=r"changed 6,0\d\d bytes of one shard in an epoch"):
        recovery.run(big_flow(6000))


def test_a_state_that_redis_refuses_is_named(run: Runner, start_redis) -> None:
    url = start_redis("--proto-max-bulk-len", "1mb").url
    done = run(*OPTIONS, "--redis", url, file=BIG, redis=False, KEYS="3", SIZE="2e6", EPOCHS="200")
    assert done.returncode == 2
    said = r"takes no argument of 2,000,\d+ bytes, which the state of key '\d' of step 'turn' has: "
    assert re.search(said + "its proto-max-bulk-len is less", done.stderr)
    env = {"KEYS": "3", "SIZE": "2e6", "EPOCHS": "2"}
    client = connect(RedisConfig(url=url))
    client.config_set("proto-max-bulk-len", "512mb")
    again = run(*OPTIONS, "--redis", url, file=BIG, redis=False, **env)
    assert again.returncode == 0, again.stderr
