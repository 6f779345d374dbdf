"""Rule 12: a Redis that comes back empty is filled again from memory while the flow runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.testing import cluster_main, run_main

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.dataflow.shards import shard
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery import session as session_module
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.scripts import Scripts

EPOCH = timedelta(milliseconds=50)
KEYS = FlowKeys("bytewax", "sums")
MANY = 300


@pytest.fixture(autouse=True)
def _short_sleep(monkeypatch):
    monkeypatch.setattr(
        session_module, "SnapshotRequests", lambda: SnapshotRequests(timedelta(seconds=0.5))
    )


class _Numbers(StatefulSourcePartition):
    def __init__(self, job, number):
        self._job, self._number = job, number
        job.given = number

    def next_batch(self):
        if self._job.ended.is_set():
            raise StopIteration
        self._number += 1
        self._job.given = self._number
        # First each key once, then three keys only.
        return [self._number if self._number <= MANY else self._number % 3]

    def next_awake(self):
        return datetime.now(timezone.utc) + timedelta(milliseconds=1)

    def snapshot(self):
        return self._number


class Numbers(FixedPartitionedSource):
    def __init__(self, job):
        self._job = job

    def list_parts(self):
        return ["only"]

    def build_part(self, step_id, for_part, resume_state):
        return _Numbers(self._job, resume_state or 0)


class _Counted(StatefulSinkPartition):
    def __init__(self, count):
        self._count = count

    def write_batch(self, values):
        self._count += len(values)

    def snapshot(self):
        return self._count


class Counter(FixedPartitionedSink):
    """Its partition ``idle`` gets 50 of the first items only."""

    def list_parts(self):
        return ["busy", "idle"]

    def part_fn(self, key):
        return int(key)

    def assign(self, key):
        return int(key)

    def build_part(self, step_id, for_part, resume_state):
        return _Counted(resume_state or 0)


class Job:
    def __init__(self, recovery: RedisRecovery, workers: int = 1):
        self.given = 0
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.session = None
        self._recovery, self._workers = recovery, workers
        flow = Dataflow("sums")
        keyed = op.key_on("key", op.input("in", flow, Numbers(self)), lambda n: f"k{n}")

        def add(total, number):
            return (total or 0) + 1, number

        sums = op.stateful_map("sum", keyed, add)

        def which(pair):
            _, number = pair
            return ("1" if 3 <= number < 53 else "0"), pair  # each of these comes once

        op.output("out", op.map("which", sums, which), Counter())
        self.flow = flow

    def run(self, act) -> None:
        def acting():
            try:
                act(self)
            except BaseException as error:  # noqa: BLE001 - raised below
                self.error = error
            self.ended.set()

        thread = threading.Thread(target=acting, daemon=True)
        with self._recovery.session(self.flow, worker_count=self._workers) as self.session:
            thread.start()
            options = {
                "epoch_interval": EPOCH,
                "recovery_config": self.session.recovery_config,
            }
            if self._workers == 1:
                run_main(self.session.flow, **options)
            else:
                cluster_main(
                    self.session.flow,
                    addresses=[],
                    proc_id=0,
                    worker_count_per_proc=self._workers,
                    **options,
                )
        thread.join()
        if self.error:
            raise self.error


@pytest.fixture
def recovery(redis_url, tmp_path):
    return RedisRecovery(redis_url, scratch=tmp_path, checkpoint_interval=timedelta(seconds=0.2))


def states(client, step: str) -> dict[str, object]:
    codec = Codec().bind(namespace="bytewax", flow_id="sums", step=step)
    found = {}
    for key in client.scan_iter(KEYS.state_pattern, 1000):
        at, _, name = KEYS.parse_state(key)
        if at == step:
            found[name] = codec.decode(name, client.get(key))
    return found


def manifest(client):
    return read_manifest(client, KEYS)


def whole(client) -> bool:
    found = manifest(client)
    return found is not None and not found.renewing


def require_exact(client, given: int) -> None:
    sums = states(client, "sum")
    assert set(sums) == {f"k{n}" for n in range(MANY + 1)}
    assert sum(sums.values()) == given
    assert states(client, "in") == {"only": given}
    assert states(client, "out")["idle"] == 50
    assert states(client, "out")["busy"] == given - 50


@pytest.mark.parametrize("workers", [1, 2])
def test_an_emptied_redis_is_filled_again_and_again(recovery, client, eventually, workers):
    lives = []

    def act(job):
        eventually(lambda: job.given > MANY + 100)
        for _ in range(2):
            lives.append(manifest(client))
            client.flushdb()
            eventually(lambda: whole(client) and manifest(client) != lives[-1])
            eventually(lambda before=job.given: job.given > before + 50)

    job = Job(recovery, workers)
    job.run(act)
    last = manifest(client)
    assert len({m.incarnation for m in [*lives, last]}) == 3
    assert last.generation > lives[1].generation > lives[0].generation
    assert last.resume_epoch > lives[1].resume_epoch
    require_exact(client, job.given)
    again = Job(recovery, workers)
    again.run(lambda _job: None)
    assert again.session.resumed.keys == {"in": 1, "sum": MANY + 1, "out": 2}
    require_exact(client, again.given)


def test_what_was_restored_and_never_touched_is_there_again(recovery, client, eventually):
    """Asleep since the resume: keys without logics, and a sink that was never written to."""
    job = Job(recovery)
    job.run(lambda job: eventually(lambda: job.given > MANY + 10))
    again = Job(recovery)

    def act(job):
        eventually(lambda: job.given > 0)
        old = manifest(client)
        client.flushdb()
        eventually(lambda: whole(client) and manifest(client) != old)

    again.run(act)
    require_exact(client, again.given)


def test_a_large_shard_answers_in_several_epochs(recovery, client, eventually, monkeypatch):
    monkeypatch.setattr(shard, "_ANSWER_BYTES", 1)
    monkeypatch.setattr(shard, "_ANSWER_KEYS", 2)
    test_what_was_restored_and_never_touched_is_there_again(recovery, client, eventually)


def test_a_replicator_killed_in_mid_renewal_goes_on_with_it(
    recovery, client, eventually, monkeypatch
):
    monkeypatch.setattr(
        session_module, "SnapshotRequests", lambda: SnapshotRequests(timedelta(seconds=3))
    )

    def some_have_answered() -> bool:
        found = manifest(client)
        return found is not None and int(
            client.hget(KEYS.progress(0, found.generation), "answered") or 0
        )

    def act(job):
        eventually(lambda: job.given > MANY + 100)
        client.flushdb()
        eventually(some_have_answered)
        assert manifest(client).renewing
        os.kill(job.session.replicator_pid, signal.SIGKILL)
        eventually(lambda: whole(client))
        os.kill(job.session.replicator_pid, signal.SIGKILL)
        before = job.given
        eventually(lambda: job.given > before + 300)

    job = Job(recovery)
    job.run(act)
    require_exact(client, job.given)


def test_a_flow_that_ends_in_mid_renewal_is_not_resumed(recovery, client, eventually, monkeypatch):
    monkeypatch.setattr(
        session_module, "SnapshotRequests", lambda: SnapshotRequests(timedelta(hours=1))
    )

    def act(job):
        eventually(lambda: job.given > MANY + 100)
        client.flushdb()
        eventually(lambda: manifest(client) is not None)
        time.sleep(0.3)
        assert manifest(client).renewing
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises((StateLostError, KeyboardInterrupt)):
        Job(recovery).run(act)
    before = sorted(client.scan_iter())
    with pytest.raises(StateLostError, match="its state is not whole again"):
        Job(recovery).run(lambda _job: None)
    assert sorted(client.scan_iter()) == before


def left(client) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter() if b":lease:" not in key}


def delete_keys(client, *kinds: str) -> None:
    """Delete the keys of the flow that are of these kinds, at once."""
    names = [k for k in client.scan_iter(count=10_000) if KEYS.parse(k).kind in kinds]
    client.delete(*names)


@pytest.mark.parametrize(
    "kinds",
    [
        ("manifest", "generation", "progress"),
        ("manifest", "generation", "progress", "journal", "applied"),
        ("manifest", "progress"),
    ],
)
def test_a_redis_that_lost_the_manifest_and_not_all_is_not_written_over(
    recovery, client, eventually, kinds
):
    before = {}

    def act(job):
        eventually(lambda: len(states(client, "sum")) > MANY)
        delete_keys(client, *kinds)
        before.update(left(client))
        job.ended.wait(BOUND_SECONDS)

    with pytest.raises(
        StateLostError, match=r"has lost the manifest of the flow 'sums' .* holds other keys of it"
    ) as stopped:
        Job(recovery).run(act)
    # A fold that was under way when the keys went may have ended after that.
    assert set(left(client)) == set(before)
    with pytest.raises(StateLostError, match="the flow has no manifest in Redis, but a key"):
        Job(recovery).run(lambda _job: None)
    assert "or delete its keys first: redis-cli --scan" in str(stopped.value)
    for key in client.scan_iter(KEYS.pattern):
        client.delete(key)
    job = Job(recovery)
    job.run(lambda job: eventually(lambda: job.given > MANY + 60))
    require_exact(client, job.given)


def test_a_redis_whose_keys_are_deleted_one_by_one_is_filled_again(recovery, client, eventually):
    """The manifest first: for a moment Redis is emptied in part."""

    def act(job):
        eventually(lambda: job.given > MANY + 100)
        old = manifest(client)
        client.delete(KEYS.manifest, KEYS.generation, KEYS.progress(0, old.generation))
        time.sleep(0.5)
        for key in client.scan_iter(KEYS.pattern):
            client.delete(key)
        eventually(lambda: whole(client) and manifest(client) != old)
        before = job.given
        eventually(lambda: job.given > before + 50)

    job = Job(recovery)
    job.run(act)
    require_exact(client, job.given)


def test_what_a_renewal_left_that_died_before_its_manifest_is_no_remains(
    recovery, client, eventually
):
    def act(job):
        eventually(lambda: job.given > MANY + 100)
        old = manifest(client)
        scripts, token = Scripts(client), str(old.token._replace(generation=old.generation + 1))
        with client.pipeline() as pipe:  # as a renewal begins
            pipe.flushdb()
            scripts.create_cell(KEYS.applied("sum", 3), "dead", token, 5, pipe)
            journal, progress = KEYS.journal(0, 2), KEYS.progress(0, 2)
            scripts.create_partition(journal, progress, "dead", token, 6, pipe)
            pipe.execute()
        eventually(lambda: whole(client) and manifest(client) != old)

    job = Job(recovery)
    job.run(act)
    require_exact(client, job.given)


def test_a_redis_that_lost_less_than_all_stops_the_flow(recovery, client, eventually):
    def act(job):
        eventually(lambda: job.given > MANY + 100)
        client.delete(KEYS.progress(0, manifest(client).generation))
        job.ended.wait(BOUND_SECONDS)

    with pytest.raises(StateLostError):
        Job(recovery).run(act)
