"""Leases: one owner, seen to be alive or dead."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from bytewax_redis_state.errors import FlowRunningError
from bytewax_redis_state.recovery.records import lease as module
from bytewax_redis_state.recovery.records.lease import (
    LEASE_SECONDS,
    Lease,
    LeaseHolder,
    claim,
    read_leases,
    this_owner,
)
from tests.recovery.conftest import FlowInRedis

SLEEPER = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


def owner(process: int = 0, **changes: object) -> Lease:
    return replace(this_owner(process, "cluster", {}), **changes)


def elsewhere(**changes: object) -> Lease:
    """As if from another machine, whose processes can't be seen from here."""
    return owner(host="far", machine="far/boot/pid", pid=1, pid_started="1", **changes)


class Said(list):
    def __call__(self, line: str) -> None:
        self.append(line)


def take(flow: FlowInRedis, lease: Lease, *, take_over: bool = False) -> Said:
    said = Said()
    claim(flow.scripts, flow.keys, lease, take_over=take_over, say=said)
    return said


@pytest.fixture
def held(flow):
    """A lease that somebody far away holds and renews."""
    holders = []

    def hold(lease: Lease) -> LeaseHolder:
        take(flow, lease)
        holder = LeaseHolder(flow.client, flow.scripts, flow.keys, lease, lost.append).start()
        holders.append(holder)
        return holder

    lost: list[Exception] = []
    hold.lost = lost
    yield hold
    for holder in holders:
        holder.stop(release=False)


def stored(flow: FlowInRedis) -> Lease | None:
    value = flow.client.get(flow.keys.lease(0))
    return None if value is None else Lease.from_json(value)


def test_a_free_lease_is_taken_at_once(flow):
    me = owner()
    assert take(flow, me) == []
    assert stored(flow) == me
    assert 0 < flow.client.pttl(flow.keys.lease(0)) <= 5000


def test_a_live_owner_is_named_with_place_and_time(flow, held):
    """Rule 5a: refuse if a live lease exists, and say where and since when."""
    far = elsewhere(since="2024-05-06T07:08:09+00:00")
    held(far)
    with pytest.raises(FlowRunningError) as caught:
        take(flow, owner())
    assert stored(flow).beat <= 4, "the next renewals tell that it lives"
    assert "process 0 on host far (pid 1), since 2024-05-06T07:08:09+00:00" in str(caught.value)
    assert "--take-over" in caught.value.hint
    assert stored(flow).id == far.id


def test_an_owner_that_stays_silent_is_outlived(flow):
    """Rule 5a: expired after 5 s. Kill a process on another host: nobody renews."""
    take(flow, elsewhere())
    flow.client.pexpire(flow.keys.lease(0), 700)  # the rest of its 5 s
    said = take(flow, me := owner())
    assert said == [f"waiting for process 0 on host far (pid 1), since {said_since(said)}: joining"]
    assert stored(flow) == me


def said_since(said: Said) -> str:
    return said[0].split("since ")[1].split(": joining")[0]


def test_a_process_that_died_on_this_host_is_not_waited_for(flow):
    """Rule 5a: at once where its process is dead on this host."""
    sleeper = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    from bytewax_redis_state.recovery.records.lease import _pid_started

    dead = owner(pid=sleeper.pid, pid_started=_pid_started(sleeper.pid))
    take(flow, dead)
    assert not dead.owner_is_dead
    sleeper.kill()
    while not dead.owner_is_dead:  # a zombie counts as dead: nobody has waited for it yet
        time.sleep(0.01)
    began = time.monotonic()
    assert take(flow, me := owner()) == []
    assert time.monotonic() - began < LEASE_SECONDS - 1
    assert stored(flow) == me
    sleeper.wait()


def test_a_pid_that_was_given_out_again_is_not_its_first_owner():
    assert owner(pid_started="1").owner_is_dead


def test_a_process_in_another_container_is_never_seen_as_dead():
    assert not replace(elsewhere(), pid=2**22 + 1).owner_is_dead


def test_a_draining_owner_is_waited_for(flow, held):
    holder = held(elsewhere())
    holder.say("draining")
    threading.Timer(1.5, lambda: holder.stop(release=True)).start()
    began = time.monotonic()
    said = take(flow, me := owner())
    assert time.monotonic() - began > 1
    assert said[0].endswith(": draining")
    assert stored(flow) == me


def test_take_over_replaces_a_live_owner_who_hears_of_it(flow, held, eventually):
    """Rule 5a: --take-over overrides."""
    holder = held(elsewhere())
    take(flow, me := owner(host="here"), take_over=True)
    eventually(lambda: held.lost)
    assert "taken over by process 0 on host here" in str(held.lost[0])
    holder.stop(release=True)
    assert stored(flow) == me, "somebody else's lease was given back"
    assert len(held.lost) == 1


def test_a_renewed_lease_lives_on(flow, held, eventually):
    holder = held(me := owner())
    eventually(lambda: stored(flow).beat >= 2)
    assert stored(flow).id == me.id
    assert holder.lease.beat >= 2
    holder.stop(release=True)
    assert stored(flow) is None


def test_a_lease_that_vanished_with_redis_comes_back(flow, held, eventually):
    held(owner())
    flow.client.delete(flow.keys.lease(0))
    eventually(lambda: stored(flow))


def test_processes_have_leases_of_their_own(flow):
    take(flow, owner(0))
    assert take(flow, owner(1)) == []


NO_LEASES = [
    b"",
    b"text",
    b"[]",
    b"7",
    b'{"id": 7}',
    b'{"id": "x"}',
    b"\xff",
    b'{"id": "x", "new": 1}',
]


@pytest.mark.parametrize("value", NO_LEASES)
def test_what_is_no_lease_is_named_and_waited_for_no_longer_than_a_lease_lives(
    flow, value, monkeypatch
):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    flow.client.set(flow.keys.lease(0), value)
    said = take(flow, me := owner())
    assert f"waiting for the owner of {flow.keys.lease(0).decode()!r}" in said[0]
    assert len(said) == 1
    assert stored(flow) == me


def test_a_key_of_another_type_in_a_leases_place_is_replaced(flow, monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    flow.client.rpush(flow.keys.lease(0), "x")
    take(flow, me := owner())
    assert stored(flow) == me


@pytest.mark.parametrize("value", NO_LEASES)
def test_an_owner_writes_its_lease_again_and_gives_it_back(flow, held, eventually, value):
    holder = held(me := owner())
    flow.client.set(flow.keys.lease(0), value)
    eventually(lambda: flow.client.get(flow.keys.lease(0)) != value)
    assert stored(flow).id == me.id
    flow.client.set(flow.keys.lease(0), value)
    holder.say("draining")
    assert stored(flow).phase == "draining"
    flow.client.set(flow.keys.lease(0), value)
    holder.stop(release=True)
    assert not held.lost


def test_a_start_that_meets_what_is_no_lease_finds_the_owner_that_lives(flow, held):
    held(elsewhere())
    flow.client.set(flow.keys.lease(0), "text")
    with pytest.raises(FlowRunningError, match="process 0 on host far"):
        take(flow, owner())


def test_a_lease_without_an_expiry_ends_by_itself(flow):
    """No owner writes one; a start would wait for ever."""
    take(flow, far := elsewhere())
    flow.client.persist(flow.keys.lease(0))
    said = take(flow, me := owner())
    assert far.whereabouts in said[0]
    assert stored(flow) == me


def test_leases_that_can_not_be_read_are_left_out(flow):
    flow.client.set(flow.keys.lease(0), "text")
    flow.client.rpush(flow.keys.lease(2), "x")
    take(flow, me := owner(1))
    assert read_leases(flow.client, flow.keys, range(3)) == {1: me}
