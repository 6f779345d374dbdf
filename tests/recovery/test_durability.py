"""Durability levels: what a server can't give is refused, and rows stay until they are sure."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import pytest

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.errors import ConfigError, ReplicatorError, ServerUnfitError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery import session as session_module
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.client import Client, connect

from .bulky import Job, Told

KEYS = FlowKeys("bytewax", "bulky")


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("memory", Durability()),
        ("aof", Durability("aof")),
        ("replicas:2", Durability("replicas", 2)),
    ],
)
def test_levels_are_read_as_they_are_shown(text, level):
    assert Durability.parse(text) == level
    assert str(level) == text


@pytest.mark.parametrize("text", ["", "AOF", "replicas", "replicas:0", "replicas:x", "aof:1"])
def test_other_levels_are_refused(text):
    with pytest.raises(ConfigError, match="durability is"):
        RedisRecovery("redis://localhost", durability=text)


@pytest.fixture
def replicated(start_redis):
    """A primary and one replica that has caught up."""
    primary = start_redis()
    replica = start_redis("--replicaof", f"127.0.0.1 {primary.port}")
    return primary, replica


def client_of(server) -> Client:
    return connect(RedisConfig(url=server.url))


def linked(server) -> bool:
    return client_of(server).info()["connected_slaves"] == 1


def refused(recovery: RedisRecovery, url: str, because: str) -> None:
    with pytest.raises(ServerUnfitError, match=because):
        Job(recovery).run(lambda _job: None)
    assert connect(RedisConfig(url=url)).dbsize() == 0


def test_what_a_server_cannot_give_is_refused_before_anything_is_written(
    start_redis, redis_62, valkey, tmp_path
):
    def recovery(server, level: str) -> RedisRecovery:
        return RedisRecovery(server.url, scratch=tmp_path, durability=level)

    lone = start_redis(binary=valkey)
    refused(recovery(lone, "replicas:1"), lone.url, "has 0 replicas")
    lazy = start_redis("--appendonly", "no", binary=valkey)
    refused(recovery(lazy, "aof"), lazy.url, "writes no append-only file")
    old = start_redis(binary=redis_62)
    refused(recovery(old, "aof"), old.url, r"is Redis 6\.2")


def confirming(client: Client) -> tuple[int, int]:
    generation = read_manifest(client, KEYS).generation
    row, confirmed = client.hmget(KEYS.progress(0, generation), "row", "confirming")
    return int(row), int(confirmed or 0)


def test_rows_are_confirmed_on_the_disk_of_the_primary(start_redis, valkey, tmp_path, eventually):
    server = start_redis(binary=valkey)
    recovery = RedisRecovery(server.url, scratch=tmp_path, durability="aof")
    Job(recovery).run(lambda job: eventually(lambda: job.given > 500))
    row, confirmed = confirming(client_of(server))
    assert row == confirmed > 0


def test_rows_stay_until_the_replica_has_them(replicated, tmp_path, eventually, monkeypatch):
    monkeypatch.setattr(session_module, "MARGIN_SECONDS", 0.1)  # else nothing goes so soon
    primary, replica = replicated
    eventually(lambda: linked(primary))
    told = Told()
    recovery = RedisRecovery(
        primary.url, scratch=tmp_path, durability="replicas:1", reporter=told, max_lag=1_000_000
    )

    def act(job):
        eventually(lambda: job.given > 500)
        eventually(lambda: confirming(client_of(primary))[1] > 0)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            # The primary has all rows, but the outbox keeps them, and at last the sources wait.
            eventually(lambda: told.warnings and job.stands_still())
            time.sleep(2.5)  # longer than the margin and the time between two prunings
            assert len(told.warnings) == 1
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        before = job.given
        eventually(lambda: job.given > before + 500)

    Job(recovery).run(act)
    assert told.warnings[0].startswith("the sources wait: the outbox lags")
    row, confirmed = confirming(client_of(primary))
    assert row == confirmed
    # What was confirmed is on the replica, whatever becomes of the primary.
    assert client_of(replica).dbsize() == client_of(primary).dbsize()


def folded_and_safe(client: Client) -> tuple[int, int]:
    """Give the highest epoch that a cell has applied, then below which replicas have all."""
    generation = read_manifest(client, KEYS).generation
    lanes = [client.hget(KEYS.applied("sum", shard), "p0") for shard in range(64)]
    safe = client.hget(KEYS.progress(0, generation), "safe")
    return max(int(lane or 0) for lane in lanes), int(safe or 0)


def test_folds_wait_for_a_replica_that_came_while_the_flow_ran(start_redis, tmp_path, eventually):
    """A failover to it must not take back what the keyed state relies on."""
    primary = start_redis()
    client = client_of(primary)
    recovery = RedisRecovery(
        primary.url, scratch=tmp_path, checkpoint_interval=timedelta(seconds=0.1)
    )

    def epoch() -> int:
        generation = read_manifest(client, KEYS).generation
        return int(client.hget(KEYS.progress(0, generation), "epoch"))

    def act(job):
        eventually(lambda: folded_and_safe(client)[0] > 0)
        assert folded_and_safe(client)[1] == 0, "nobody is there to be waited for"
        replica = start_redis("--replicaof", f"127.0.0.1 {primary.port}")
        eventually(lambda: folded_and_safe(client)[1] > 0)
        since = folded_and_safe(client)[0]
        eventually(lambda: folded_and_safe(client)[0] > since)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            since = epoch()
            eventually(lambda: epoch() > since + 50)  # a second, ten checkpoints
            folded, safe = folded_and_safe(client)
            assert folded < safe < epoch()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        eventually(lambda: folded_and_safe(client)[0] > since + 50)

    Job(recovery).run(act)


def test_a_drain_says_what_is_not_sure(replicated, tmp_path, eventually):
    primary, replica = replicated
    eventually(lambda: linked(primary))
    recovery = RedisRecovery(
        primary.url,
        scratch=tmp_path,
        durability="replicas:1",
        drain_timeout=timedelta(seconds=1.5),
    )

    def act(job):
        eventually(lambda: job.given > 500)
        os.kill(replica.pid, signal.SIGSTOP)

    try:
        with pytest.raises(ReplicatorError, match="Redis has not confirmed 'replicas:1'"):
            Job(recovery).run(act)
    finally:
        os.kill(replica.pid, signal.SIGCONT)
