"""Sessions with a real engine, a real replicator and its watchdog."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import bytewax.operators as op
import pytest
import redis
from bytewax.dataflow import Dataflow
from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.testing import TestingSink, TestingSource, run_main

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import ConfigError, DecodeError, ReplicatorError, StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery import stopping as stopping_module
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.replicator.watchdog import spawn

EPOCH = timedelta(milliseconds=50)
KEYS = FlowKeys("bytewax", "sums")


@pytest.fixture
def recovery(redis_url: str, tmp_path: Path) -> RedisRecovery:
    return RedisRecovery(redis_url, scratch=tmp_path, checkpoint_interval=timedelta(seconds=0.2))


class _Ticks(StatefulSourcePartition):
    def __init__(self, number, until):
        self._number, self._until = number or 0, until

    def next_batch(self):
        if self._until(self._number):
            raise StopIteration
        self._number += 1
        return [self._number]

    def next_awake(self):
        return datetime.now(timezone.utc) + timedelta(milliseconds=2)

    def snapshot(self):
        return self._number


class Ticks(FixedPartitionedSource):
    """Counts until told to end."""

    def __init__(self, until):
        self._until = until

    def list_parts(self):
        return ["only"]

    def build_part(self, step_id, for_part, resume_state):
        return _Ticks(resume_state, self._until)


def sums(source, out) -> Dataflow:
    flow = Dataflow("sums")
    keyed = op.key_on("key", op.input("in", flow, source), lambda n: f"k{n % 50}")

    def add(total, number):
        total = (total or 0) + number
        return total, (number, total)

    op.output("out", op.stateful_map("sum", keyed, add), TestingSink(out))
    return flow


def run(recovery: RedisRecovery, flow: Dataflow, sessions: list | None = None):
    """Run a flow; ``sessions`` gets the session, for threads that want to disturb it."""
    with recovery.session(flow) as session:
        if sessions is not None:
            sessions.append(session)
        run_main(session.flow, epoch_interval=EPOCH, recovery_config=session.recovery_config)
    return session.resumed


def totals(client) -> dict[str, int]:
    codec = Codec().bind(namespace="bytewax", flow_id="sums", step="sum")
    found = {}
    for key in client.scan_iter(KEYS.state_pattern, 1000):
        step, _, name = KEYS.parse_state(key)
        if step == "sum":
            found[name] = codec.decode(name, client.get(key))
    return found


def expected(numbers) -> dict[str, int]:
    found: dict[str, int] = {}
    for number in numbers:
        found[f"k{number % 50}"] = found.get(f"k{number % 50}", 0) + number
    return found


def leases(client) -> list[bytes]:
    return [key for key in client.scan_iter() if b":lease:" in key]


class When:
    """Does something once while a flow runs, in a thread, and then lets the flow end."""

    def __init__(self, act):
        self._act, self._ended, self.error = act, threading.Event(), None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error
        self._ended.set()

    def __call__(self, number: int) -> bool:
        if number == 20:
            self._thread.start()
        return self._ended.is_set()


def progress(client) -> int:
    manifest = read_manifest(client, KEYS)
    return int(client.hget(KEYS.progress(0, manifest.generation), "epoch"))


# --- the ordinary course -------------------------------------------------------------------------


def test_what_is_restored_goes_past_the_engine_and_waits_no_longer(recovery, client):
    """Rule 18: a row says where a cell is, the sums go on from it, and nothing is kept twice."""
    assert run(recovery, sums(TestingSource(range(500)), [])).epoch == 1
    out: list = []
    with recovery.session(sums(TestingSource(range(600)), out)) as session:
        assert session.resumed.keys == {"in": 1, "sum": 50}
        waiting = session._handover._waiting
        assert sum(map(len, waiting.values())) == 50
        run_main(session.flow, epoch_interval=EPOCH, recovery_config=session.recovery_config)
        assert not waiting
    assert [number for _, (number, _) in out] == list(range(500, 600))
    assert totals(client) == expected(range(600))


def test_a_flow_without_state_has_no_recovery(recovery, client):
    """Rule 16."""
    flow = Dataflow("stateless")
    op.output("out", op.flat_map("none", op.input("in", flow, _Dynamic()), list), TestingSink([]))
    with recovery.session(flow) as session:
        assert session.recovery_config is None
        assert session.flow is flow
        assert session.replicator_pid is None
        run_main(session.flow)
    assert client.dbsize() == 0


class _Nothing(StatelessSourcePartition):
    def next_batch(self):
        raise StopIteration


class _Dynamic(DynamicSource):
    def build(self, step_id, worker_index, worker_count):
        return _Nothing()


def test_the_lease_is_given_back_and_the_scratch_left_empty(recovery, client, tmp_path):
    """Rule 2: the folder goes with its execution."""
    run(recovery, sums(TestingSource(range(50)), []))
    assert leases(client) == []
    assert list(tmp_path.rglob("bytewax-outbox-*")) == []


def test_what_was_committed_before_a_mistake_is_shipped(recovery, client):
    """Drained in ``finally``: the user's exception comes out, and Redis has every commit."""

    def fail(number: int) -> bool:
        if number > 60 and progress(client) > 3:
            raise ValueError("the user's mistake")
        return False

    with pytest.raises(Exception, match="next_batch") as caught:
        run(recovery, sums(Ticks(fail), []))
    assert isinstance(caught.value.__cause__, ValueError)
    assert leases(client) == []
    applied = {
        max(int(v or 0) for v in client.hmget(KEYS.applied("sum", shard), "epoch", "p0"))
        for shard in range(64)
    }
    assert applied == {progress(client) - 1}
    numbers = _source_number(client)
    assert totals(client) == expected(range(1, numbers + 1))


def _source_number(client) -> int:
    codec = Codec().bind(namespace="bytewax", flow_id="sums", step="in")
    for key in client.scan_iter(KEYS.state_pattern, 1000):
        step, _, name = KEYS.parse_state(key)
        if step == "in":
            return codec.decode(name, client.get(key))
    raise AssertionError("no state of the source")


def test_several_processes_can_not_share_an_embedded_server(monkeypatch, tmp_path):
    monkeypatch.delenv("BYTEWAX_REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="2 processes"):
        RedisRecovery(scratch=tmp_path).session(sums(TestingSource([]), []), process_count=2)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="nonsense"):
        RedisRecovery("redis://localhost", nonsense=1)


@pytest.mark.parametrize("part", [1, b"a", None])
def test_a_partition_whose_name_is_no_string_is_refused(recovery, client, part):
    """Its step and its type are named, as in stock."""
    source = Ticks(lambda _number: True)
    source.list_parts = lambda: ["a", part]
    with pytest.raises(ConfigError) as caught, recovery.session(sums(source, [])):
        raise AssertionError("it must not start")
    assert f"the step 'sums.in' lists a partition {part!r} of type {type(part).__name__}" in str(
        caught.value
    )
    assert client.dbsize() == 0


# --- killing and stopping the replicator ---------------------------------------------------------


def test_a_killed_replicator_is_restarted_and_no_row_is_lost(recovery, client, eventually):
    """Rules 4 and 6: kill it three times while it ships; the sums are exact."""
    sessions: list = []

    def kill_thrice():
        session = sessions[0]
        for _ in range(3):
            pid, before = session.replicator_pid, progress(client)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: session.replicator_pid != pid)
            eventually(lambda before=before: progress(client) > before + 2)

    end, out = When(kill_thrice), []
    run(recovery, sums(Ticks(end), out), sessions)
    assert end.error is None
    last = max(number for _, (number, _) in out)
    assert totals(client) == expected(range(1, last + 1))
    assert len(out) == last


def test_a_replicator_that_keeps_dying_stops_the_dataflow(recovery, eventually):
    """Rule 6: one that can't be restarted by the watchdog ends the flow, with our error."""
    sessions: list = []
    stop = threading.Event()

    def kill_all():
        seen = set()
        while not stop.is_set():
            pid = sessions[0].replicator_pid
            if pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_all, daemon=True)
    began = time.monotonic()

    def start_killing(number: int) -> bool:
        if number == 20:
            killer.start()
        return time.monotonic() > began + 40

    try:
        with pytest.raises(ReplicatorError, match="died 6 times"):
            run(recovery, sums(Ticks(start_killing), []), sessions)
    finally:
        stop.set()


def test_a_replicator_that_stands_still_is_caught_up_with(recovery, client, eventually):
    """Rule 3: stop it for a while; its rows wait in the outbox and all arrive."""
    sessions: list = []

    def pause():
        pid = sessions[0].replicator_pid
        before = progress(client)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.5)
        assert progress(client) - before <= 2
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: progress(client) > before + 4)

    end, out = When(pause), []
    run(recovery, sums(Ticks(end), out), sessions)
    assert end.error is None
    assert totals(client) == expected(range(1, len(out) + 1))


# --- Redis away, lost, of another life -----------------------------------------------------------


def test_redis_that_is_away_for_a_while_costs_nothing(start_redis, tmp_path, eventually):
    """Rule 11: the dataflow goes on, and Redis gets everything afterwards."""
    server = start_redis()
    recovery = RedisRecovery(server.url, scratch=tmp_path)
    out: list = []

    def away():
        server.stop()
        before = len(out)
        eventually(lambda: len(out) > before + 50)
        server.start()

    end = When(away)
    run(recovery, sums(Ticks(end), out))
    assert end.error is None
    with redis.Redis.from_url(server.url) as client:
        assert totals(client) == expected(range(1, len(out) + 1))


@pytest.mark.parametrize("what", ["progress", "journal", "incarnation"])
def test_redis_that_lost_its_journal_stops_the_dataflow(recovery, client, what):
    """Rules 5 and 10: appends never make a key; a replicator that meets another life stops."""

    def damage():
        if what == "incarnation":
            client.hset(KEYS.progress(0, 1), "incarnation", "another")
        else:
            client.delete(getattr(KEYS, what)(0, 1))
        time.sleep(20)

    with pytest.raises(StateLostError) as caught:
        run(recovery, sums(Ticks(When(damage)), []))
    assert caught.value.message
    assert leases(client) == []


def test_a_lost_cell_stops_the_dataflow_at_the_next_checkpoint(recovery, client):
    """Rule 8: a fold finds what a start should have made, or stops."""

    def damage():
        client.delete(KEYS.applied("sum", 9))
        time.sleep(20)

    with pytest.raises(StateLostError, match="shard 9 of step 'sum' is missing"):
        run(recovery, sums(Ticks(When(damage)), []))


def test_an_interrupt_that_the_flow_swallows_comes_again(recovery, monkeypatch):
    """Rule 6: a dataflow whose replicator is lost for good stops, whatever its code catches."""
    monkeypatch.setattr(stopping_module, "_STOP_SECONDS", 0.2)
    sessions: list = []
    swallowed = []

    def catch_the_first(number: int) -> bool:
        if number == 5:
            lost = ReplicatorError("lost for good")
            try:
                threading.Thread(
                    target=sessions[0]._stopping.fail, args=(lost,), daemon=True
                ).start()
                time.sleep(10)
            except KeyboardInterrupt:
                swallowed.append(number)
        return False

    with pytest.raises(ReplicatorError, match="lost for good"):
        run(recovery, sums(Ticks(catch_the_first), []), sessions)
    assert swallowed == [5]


def test_an_interval_of_zero_is_an_epoch_a_batch(redis_url):
    recovery, out = RedisRecovery(redis_url), []
    recovery.run(
        sums(TestingSource(list(range(20)), batch_size=1), out), epoch_interval=timedelta(0)
    )
    resumed = recovery.run(sums(TestingSource([], batch_size=1), out))
    assert resumed.epoch > 20


# --- the replicator that comes up while state is read --------------------------------------------


def test_a_start_that_fails_leaves_no_process_behind(recovery, client):
    """The replicator comes up while state is read; without a start it has nothing to do."""
    run(recovery, sums(TestingSource(range(10)), []))
    key = next(client.scan_iter(KEYS.state_pattern))
    client.setrange(key, 6, b"\xff")
    session = recovery.session(sums(TestingSource(range(20)), []))
    with pytest.raises(DecodeError), session:
        raise AssertionError("it must not start")
    assert session._replicator_process is not None
    assert session._replicator_process.returncode is not None


def test_a_replicator_that_gets_no_setup_ends(tmp_path):
    """So it is where its dataflow is killed while it starts."""
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    process = spawn(lock)
    process.stdin.close()
    assert process.wait(BOUND_SECONDS) == 1
    os.close(lock)
