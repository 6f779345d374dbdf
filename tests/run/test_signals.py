"""Ctrl-C and SIGTERM: once is stop, drain, checkpoint, exit; twice is at once."""

from __future__ import annotations

import os
import signal
import time

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.recovery.records.lease import Lease
from bytewax_redis_state.server.client import connect

from .conftest import FLOWS, Sums, expected, finished

ENDLESS = {"ITEMS": "1000000", "PAUSE": "0.01"}
DRAIN_SECONDS = 60.0  # by default
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def send(process, number: signal.Signals) -> None:
    """To the whole group, as a terminal does it: the replicator gets it too."""
    os.killpg(process.pid, number)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", SIGNALS)
def test_once_stops_drains_and_checkpoints(run, sums, eventually, number, workers):
    """Rule 3: what was committed is shipped and folded before the process is gone."""
    running = run.start("-s", "0.1", "-w", workers, **ENDLESS)
    eventually(lambda: sums.manifest and sums.progress() > 3)
    send(running, number)
    done = finished(running)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert sums.leases() == []
    assert list((run.folder / "scratch").glob("bytewax-outbox-*")) == []
    progress = sums.progress()
    assert {sums.applied(shard=shard) for shard in range(64)} == {progress - 1}
    numbers = sums.state("in")
    assert sums.state() == {
        key: value
        for key, value in _added(expected(numbers["a"], 1), expected(numbers["b"], 1)).items()
        if value
    }
    # And it goes on from there.
    items = max(numbers.values()) + 20
    resumed = run("-s", "0.1", "-w", workers, ITEMS=str(items))
    assert f"resumed at epoch {progress}" in resumed.stderr
    assert sums.state() == expected(items)


def _added(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + two.get(key, 0) for key in one.keys() | two.keys()}


def test_a_flow_that_ships_counts_as_running(run, sums, eventually):
    """From its first epoch on: a start after a crash would take it for one of its own members."""
    running = run.start("-s", "0.05", **ENDLESS)
    eventually(lambda: sums.manifest and sums.manifest.processes and sums.progress() > 1)
    (lease,) = sums.leases()
    assert Lease.from_json(sums.client.get(lease)).phase == "running"
    os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", SIGNALS)
def test_no_window_closes_because_of_it(run, client, eventually, number):
    """Once stops without end of input: the end of input would close all windows."""
    windows = Sums(client, "windows")
    running = run.start("-s", "0.1", flow="windows()", **ENDLESS)
    eventually(lambda: windows.manifest and windows.progress() > 3)
    send(running, number)
    done = finished(running)
    assert (done.returncode, done.stdout) == (130, "")
    seen = windows.state("in")
    done = run("-s", "0.1", flow="windows()", ITEMS=str(max(seen.values()) + 5))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 5  # one window for each key, at the real end


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", SIGNALS)
def test_twice_exits_at_once(run, start_redis, eventually, number, workers):
    """Rule 11 at its worst: Redis hangs, so the drain could take its minute."""
    server = start_redis()
    run.url = server.url
    client = connect(RedisConfig(url=server.url))
    sums = Sums(client)
    running = run.start("-s", "0.1", "-w", workers, **ENDLESS)
    eventually(lambda: sums.manifest and sums.progress() > 2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        send(running, number)
        time.sleep(1.5)  # let it get into the drain, which can't end
        assert running.poll() is None
        began = time.monotonic()
        send(running, number)
        done = finished(running)
        took = time.monotonic() - began
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert done.returncode == 130, done.stderr
    assert took < DRAIN_SECONDS / 2, "it did not wait for the drain"
    assert list((run.folder / "scratch").glob("bytewax-outbox-*")) == []
    client.close()
    # Nothing is lost: the next start is not held up by the lease that nobody gave back.
    resumed = run("-s", "0.1", "-w", workers, ITEMS="10")
    assert resumed.returncode == 0, resumed.stderr


def test_while_it_waits_for_others_it_ends_too(run, sums, two_addresses, eventually):
    waiting = run.start("-s", "0.1", "-i", "0", "-a", two_addresses)
    eventually(sums.leases)
    send(waiting, signal.SIGINT)
    done = finished(waiting)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert sums.leases() == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("where", ["import", "start", "run"])
def test_an_interrupt_that_the_flow_lets_nobody_see_ends_it_too(run, sums, number, where):
    """Such as the one that comes in a weak reference's callback, of which each import has one."""
    done = finished(
        run.start(
            *("-s", "0.1"), flow="deaf()", PARTS="a", DEAF=where, NUMBER=number.name, **ENDLESS
        ),
        30,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert sums.leases() == []
    if where == "run":
        count = sums.state("in")["a"]
        assert count > 5  # it went on for a while
        assert sums.state() == expected(count, 1)
    else:
        assert sums.state("in") == {}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_handler_that_the_flow_sets_at_import_is_called(
    run, sums, two_addresses, eventually, processes
):
    """Stock calls it: the clean-up of many flows."""
    file = FLOWS.with_name("on_sigterm.py")
    cluster = [("-i", str(n), "-a", two_addresses) for n in range(2)] if processes == 2 else [()]
    env = ENDLESS | {"PYTHONPATH": str(FLOWS.parents[2])}
    running = [run.start("-s", "0.1", *more, file=file, **env) for more in cluster]
    eventually(lambda: sums.manifest and sums.progress() > 3)
    for process in running:
        process.send_signal(signal.SIGTERM)
    ends = [finished(process, 30) for process in running]
    assert [end.returncode for end in ends] == [130] * processes, [end.stderr for end in ends]
    assert [end.stdout.count("cleaned up after SIGTERM") for end in ends] == [1] * processes
