"""Rule 11: a flow whose rows Redis does not take waits, costs nothing meanwhile, and goes on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time

import pytest
import redis

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.dataflow.connectors.gate import Gate
from bytewax_redis_state.errors import ScratchError
from bytewax_redis_state.recovery.replicator.backpressure import Backpressure, default_lag
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status
from tests.recovery.bulky import Job, Stateful, Stateless, Told


@pytest.mark.parametrize("source", [Stateful, Stateless])
def test_the_sources_wait_for_redis_and_go_on(start_redis, tmp_path, eventually, source):
    server, told = start_redis(), Told()
    recovery = RedisRecovery(server.url, scratch=tmp_path, reporter=told, max_lag=1_000_000)

    def act(job):
        eventually(lambda: job.given > 500)
        server.kill()
        eventually(lambda: told.warnings and job.stands_still())
        used, since = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        time.sleep(2)
        now = resource.getrusage(resource.RUSAGE_SELF)
        busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        assert busy / (time.monotonic() - since) < 0.15
        before = job.given
        server.start()
        eventually(lambda: job.given > before + 500)

    job = Job(recovery, source)
    job.run(act)
    assert len(told.warnings) == 2
    assert told.warnings[0].startswith("the sources wait: the outbox lags ")
    assert "976.6 KiB is the most (Redis at redis://127.0.0.1" in told.warnings[0]
    assert told.warnings[1].startswith("the sources go on: the outbox lags ")
    # Nothing was lost: a second run goes on from the last item.
    again = Job(recovery, source)
    again.run(lambda _job: None)
    assert again.session.resumed.keys["sum"] == 50


def test_a_replicator_that_stands_still_holds_the_sources(redis_url, tmp_path, eventually):
    """Rule 6: no heartbeat counts as paused."""
    told = Told()
    recovery = RedisRecovery(redis_url, scratch=tmp_path, reporter=told)

    def act(job):
        eventually(lambda: job.given > 500)
        os.kill(job.session.replicator_pid, signal.SIGSTOP)
        try:
            eventually(lambda: told.warnings and job.stands_still())
        finally:
            os.kill(job.session.replicator_pid, signal.SIGCONT)
        before = job.given
        eventually(lambda: job.given > before + 500)

    Job(recovery).run(act)
    assert told.warnings[0].startswith("the sources wait: the replicator has been silent for 3 s")
    assert len(told.warnings) == 2


def test_a_redis_that_is_full_is_away_and_named(start_redis, tmp_path, eventually):
    server, told = start_redis("--maxmemory-policy", "noeviction"), Told()
    recovery = RedisRecovery(server.url, scratch=tmp_path, reporter=told, max_lag=1_000_000)
    client = redis.Redis.from_url(server.url)

    def act(job):
        eventually(lambda: job.given > 500)
        client.config_set("maxmemory", "1mb")
        eventually(lambda: told.warnings and job.stands_still())
        client.config_set("maxmemory", "0")
        before = job.given
        eventually(lambda: job.given > before + 500)

    Job(recovery).run(act)
    client.close()
    assert "OOM" in told.warnings[0] or "maxmemory" in told.warnings[0]
    assert "the sources go on" in told.warnings[1]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 160 MiB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no small disk here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_scratch_disk_near_its_end_holds_the_sources_and_then_ends_the_flow(
    redis_url, small_disk, eventually
):
    told = Told()
    recovery = RedisRecovery(redis_url, scratch=small_disk, reporter=told)

    def act(job):
        eventually(lambda: job.given > 500)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(110_000_000))
        eventually(lambda: told.warnings and job.stands_still())
        filler.unlink()
        before = job.given
        eventually(lambda: job.given > before + 500)
        filler.write_bytes(bytes(152_000_000))
        job.ended.wait(BOUND_SECONDS)

    with pytest.raises(ScratchError, match=r"has only \d.* MiB free; Redis lacks"):
        Job(recovery).run(act)
    assert "the scratch disk has only" in told.warnings[0]
    assert "the sources go on" in told.warnings[1]


def test_the_gate_swings_at_half_the_lag_only(tmp_path):
    gate, told = Gate(), []
    pressure = Backpressure(gate, tmp_path, 1000, told.append)

    def held_at(lag: int) -> bool:
        status = Status(ReplicatorState.RUNNING, time.monotonic(), lag=lag)
        assert pressure.on_status(status) is None
        return gate.is_closed

    assert [held_at(lag) for lag in (0, 1000, 1001, 700, 501, 500, 900)] == [
        *(False, False, True, True, True, False, False)
    ]
    assert len(told) == 2


def test_a_flow_may_lag_by_half_of_the_room_and_at_most_a_gigabyte(tmp_path, monkeypatch):
    assert 0 < default_lag(tmp_path) <= 2**30
    usage = os.statvfs(tmp_path)
    assert default_lag(tmp_path) == min(2**30, usage.f_bavail * usage.f_frsize // 2)
