"""The kinds of faults: what each does to a scene, and what it needs.

A fault strikes and is over when its function returns; what the flow makes of it is the trial's
business. Redis comes back, connections mend, processes go on: all but what was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from bytewax_redis_state.chaos.disk import can_mount
from bytewax_redis_state.chaos.faketime import faketime_library
from bytewax_redis_state.chaos.member import Member
from bytewax_redis_state.chaos.scene import Scene, StuckError
from bytewax_redis_state.chaos.schedule import MOMENTS, SERVERS, Strike
from bytewax_redis_state.chaos.servers.modes import missing_mode

__all__ = ["EARLIER_COPY", "FAULTS", "Fault"]

EARLIER_COPY = "earlier"
"""Name of the copy of Redis's data that a trial keeps, of a time before the last faults."""

_PAST_A_LEASE = 6.5  # seconds
_SELDOM = 0.2  # of the stops are that long
_FLUSH_SECONDS = 60.0
_WAKES_IN_START = 0.5
_DAY = 24 * 3600
_FORWARD, _BACK = 0.4, 0.6  # below which a clock is set forward, and back by a little
_IN_STREAM = ("stream", "unshipped", "fold")
_ONE, _SENTINEL, _CLUSTER = ((name,) for name in SERVERS)
_WITH_TAIL = 0.5  # of the killed primaries had told all to their replicas


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    :arg says: What it does, in words.
    :arg strike: Does it.
    :arg moments: When it may strike.
    :arg servers: Which Redis it can be done to.
    :arg loses: It may take writes from Redis that it has acknowledged.
    :arg stock: It can be done to stock recovery, too.
    """

    says: str
    strike: Callable[[Scene, Strike], None]
    moments: Sequence[str] = MOMENTS
    servers: Sequence[str] = SERVERS
    loses: bool = False
    stock: bool = False

    def missing(self, name: str) -> str:
        """Say what it needs that this machine does not have; empty where all is there."""
        if name == "clock" and faketime_library() is None:
            return "libfaketime is not installed (apt-get install faketime)"
        if name == "disk" and not can_mount():
            return "no small disk can be mounted here (root is needed)"
        return missing_mode(self.servers[0])


# --- processes ----------------------------------------------------------------------------------


def _kill_worker(scene: Scene, strike: Strike) -> None:
    with suppress(ProcessLookupError):
        scene.member(strike.target).kill()


def _kill_process(scene: Scene, strike: Strike) -> None:
    scene.member(strike.target).kill_group()


def _kill_all(scene: Scene, strike: Strike) -> None:
    scene.cluster.kill_groups()
    if strike.size < 0.5:  # else the next start finds what is left, and removes it
        shutil.rmtree(scene.scratch / "0", ignore_errors=True)


def _replicators(members: Sequence[Member]) -> list[int]:
    return [pid for member in members if (pid := member.replicator) is not None]


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_replicator(scene: Scene, strike: Strike) -> None:
    _signal_all(_replicators([scene.member(strike.target)]), signal.SIGKILL)


def _length(strike: Strike) -> float:
    """Seldom past a lease's end."""
    return _PAST_A_LEASE if strike.size < _SELDOM else strike.seconds


def _stopped(pids: Sequence[int], seconds: float) -> None:
    _signal_all(pids, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        _signal_all(pids, signal.SIGCONT)


def _stop_worker(scene: Scene, strike: Strike) -> None:
    _stopped([scene.member(strike.target).pid], _length(strike))


def _stop_replicator(scene: Scene, strike: Strike) -> None:
    _stopped(_replicators([scene.member(strike.target)]), _length(strike))


def _stop_all(scene: Scene, strike: Strike) -> None:
    pids = [pid for member in scene.cluster.members for pid in member.group()]
    _stopped(pids, _length(strike))


# --- a second cluster ---------------------------------------------------------------------------


def _take_over(scene: Scene, strike: Strike) -> None:
    """Start the flow again while it runs, or sleeps; who sleeps wakes in mid-start, or later."""
    old = scene.cluster
    sleepers = _sleepers(scene, strike)
    _signal_all(sleepers, signal.SIGSTOP)
    try:
        scene.start(take_over=True)
        if strike.offset < _WAKES_IN_START:
            scene.tend_until(scene.has_claimed, "the flow is being taken over")
            time.sleep(strike.offset)
        else:
            scene.tend_until(scene.has_started, "the flow is taken over")
            time.sleep(strike.seconds / 4)
    finally:
        _signal_all(sleepers, signal.SIGCONT)
    scene.end_of(old)


def _sleepers(scene: Scene, strike: Strike) -> list[int]:
    member = scene.member(strike.target)
    if strike.size < 0.3:
        return _replicators([member])
    if strike.size < 0.5:
        return [member.pid]
    if strike.size < 0.8:
        return [pid for each in scene.cluster.members for pid in each.group()]
    return []


# --- Redis --------------------------------------------------------------------------------------


def _kill_redis(scene: Scene, strike: Strike) -> None:
    scene.server.kill()
    time.sleep(strike.seconds)
    scene.server.start()


def _stop_redis(scene: Scene, strike: Strike) -> None:
    scene.server.pause()
    try:
        time.sleep(_length(strike))
    finally:
        scene.server.go_on()


def _load_slowly(scene: Scene, strike: Strike) -> None:
    scene.server.kill()
    # It answers LOADING for as long as it takes: so many microseconds for each command.
    slow = ("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
    scene.server.start(*slow, wait=False)
    time.sleep(strike.seconds)
    scene.server.load_fast()


def _read_only(scene: Scene, strike: Strike) -> None:
    with scene.server.connected() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            time.sleep(strike.seconds)
        finally:
            client.replicaof("NO", "ONE")


def _misconf(scene: Scene, strike: Strike) -> None:
    scene.server.refuse_writes()
    try:
        time.sleep(strike.seconds)
    finally:
        scene.server.take_writes()


def _maxmemory(scene: Scene, strike: Strike) -> None:
    with scene.server.connected() as client:
        client.config_set("maxmemory", "1mb")
        try:
            time.sleep(strike.seconds)
        finally:
            client.config_set("maxmemory", "0")


def _flush(scene: Scene, strike: Strike) -> None:
    """Empty Redis, and wait for the promise: the flow makes its state whole again."""
    before = scene.manifest()
    assert before is not None
    with scene.server.connected() as client:
        client.flushall()
    deadline = time.monotonic() + _FLUSH_SECONDS
    while True:
        manifest = scene.manifest()
        if manifest and not manifest.renewing and manifest.incarnation != before.incarnation:
            return
        if not scene.cluster.alive:
            raise StuckError(f"the flow ended before its state was whole:\n{scene.last_words}")
        if time.monotonic() > deadline:
            raise StuckError(f"not whole {_FLUSH_SECONDS:.0f} s later:\n{scene.last_words}")
        time.sleep(0.05)


def _lose_tail(scene: Scene, strike: Strike) -> None:
    """Set Redis back by some seconds, or to where it was before the last faults."""
    copy = EARLIER_COPY
    if strike.size < 0.7 or not scene.server.remembers(copy):
        copy = "now"
        scene.server.remember(copy)
        time.sleep(strike.seconds)
    scene.server.forget_since(copy)


# --- servers that take over from each other -----------------------------------------------------


def _kill_primary(scene: Scene, strike: Strike) -> None:
    """Kill the server that has a journal, and start it again as a replica of its successor."""
    key = scene.journal(strike.target)
    if strike.size < _WITH_TAIL:
        before = scene.group.primary_of(key)
        before.kill()
        scene.group.wait_failed_over(before, key)
    else:
        before = scene.group.lose_tail(key, partial(time.sleep, strike.seconds))
    scene.group.rejoin(before)


def _order_failover(scene: Scene, strike: Strike) -> None:
    key = scene.journal(strike.target)
    before = scene.group.primary_of(key)
    scene.group.fail_over(before)
    scene.group.wait_failed_over(before, key)


# --- the network --------------------------------------------------------------------------------


def _cut(scene: Scene, strike: Strike) -> None:
    doors = scene.doors(strike.target, all_of_them=strike.size < 0.5)
    scene.proxy.cut(doors)
    time.sleep(strike.seconds * (strike.offset < 0.7))  # or for a moment only
    scene.proxy.mend(doors)


def _delay(scene: Scene, strike: Strike) -> None:
    doors = scene.doors(strike.target, all_of_them=strike.offset < 0.5)
    scene.proxy.delay(doors, 0.01 + 0.15 * strike.size)
    time.sleep(strike.seconds)
    scene.proxy.mend(doors)


def _throttle(scene: Scene, strike: Strike) -> None:
    doors = scene.doors(strike.target, all_of_them=strike.offset < 0.5)
    scene.proxy.throttle(doors, 3_000 + 60_000 * strike.size)
    time.sleep(strike.seconds)
    scene.proxy.mend(doors)


def _half_open(scene: Scene, strike: Strike) -> None:
    doors = scene.doors(strike.target, all_of_them=strike.offset < 0.5)
    scene.proxy.half_open(doors, answers_only=strike.size < 0.5)
    time.sleep(strike.seconds)
    scene.proxy.mend(doors)


def _late_writes(scene: Scene, strike: Strike) -> None:
    """Let what a broken connection still held arrive when all has been said again on another."""
    doors = scene.doors(strike.target, all_of_them=strike.offset < 0.5)
    scene.proxy.hold_back(doors)
    time.sleep(0.1 + 0.5 * strike.size)
    scene.proxy.break_held(doors)
    time.sleep(strike.seconds)
    scene.proxy.deliver(doors)


# --- clock and disk -----------------------------------------------------------------------------


def _shift_clock(scene: Scene, strike: Strike) -> None:
    """Set a clock forward, back by a second or two, or far back, which the next start finds.

    Bytewax sleeps until a time by the wall clock: one that is set far back under a running source
    makes it sleep for that long, with our state or with none.
    """
    process = strike.target % len(scene.shifts)
    if strike.size < _FORWARD:
        shift = int(10 + strike.offset * _DAY)
    elif strike.size < _BACK:
        shift = -1 - round(strike.offset)
    else:
        scene.member(strike.target).kill_group()
        shift = -int(10 + strike.offset * _DAY)
    scene.shift_clock(process, scene.shifts[process] + shift)
    time.sleep(strike.seconds)


def _fill_disk(scene: Scene, strike: Strike) -> None:
    """Leave so little room that the sources wait, or that the flow stops, or none at all."""
    left = (40, 10, 0)[int(strike.size * 3)] * 1024 * 1024
    filler = scene.scratch / "filler"
    room = max(0, shutil.disk_usage(scene.scratch).free - left)
    with suppress(OSError):  # it is full
        filler.write_bytes(bytes(room))
    time.sleep(strike.seconds)
    filler.unlink(missing_ok=True)


FAULTS: Mapping[str, Fault] = {
    "kill-worker": Fault("SIGKILL of a dataflow process", _kill_worker, stock=True),
    "kill-process": Fault("SIGKILL of a process and its replicator", _kill_process, stock=True),
    "kill-all": Fault("SIGKILL of everything", _kill_all, stock=True),
    "kill-replicator": Fault("SIGKILL of a replicator", _kill_replicator),
    "stop-worker": Fault("SIGSTOP and SIGCONT of a dataflow process", _stop_worker, stock=True),
    "stop-replicator": Fault("SIGSTOP and SIGCONT of a replicator", _stop_replicator),
    "stop-all": Fault("SIGSTOP and SIGCONT of everything", _stop_all, stock=True),
    "take-over": Fault("a second cluster takes over", _take_over, _IN_STREAM),
    "kill-redis": Fault("SIGKILL of Redis", _kill_redis, servers=_ONE, loses=True),
    "stop-redis": Fault("SIGSTOP and SIGCONT of Redis", _stop_redis, servers=_ONE),
    "loading": Fault("Redis loads slowly", _load_slowly, servers=_ONE, loses=True),
    "readonly": Fault("Redis is a replica for a while", _read_only, servers=_ONE),
    "misconf": Fault("Redis can't save, and refuses writes", _misconf, servers=_ONE),
    "maxmemory": Fault("Redis is full", _maxmemory, servers=_ONE),
    "flush": Fault("FLUSHALL", _flush, _IN_STREAM, servers=_ONE, loses=True),
    "lost-tail": Fault("Redis loses its last writes", _lose_tail, servers=_ONE, loses=True),
    "sentinel-failover": Fault(
        "SIGKILL of the primary that Sentinels watch", _kill_primary, servers=_SENTINEL, loses=True
    ),
    "sentinel-order": Fault(
        "Sentinels are told to fail over", _order_failover, servers=_SENTINEL, loses=True
    ),
    "cluster-failover": Fault(
        "SIGKILL of a node of a Redis Cluster", _kill_primary, servers=_CLUSTER, loses=True
    ),
    "cluster-order": Fault(
        "a replica of a Redis Cluster is told to take over", _order_failover, servers=_CLUSTER
    ),
    "cut": Fault("connections are cut", _cut, servers=_ONE),
    "delay": Fault("the network is slow to answer", _delay, servers=_ONE),
    "throttle": Fault("the network is narrow", _throttle, servers=_ONE),
    "half-open": Fault("connections go dead without a word", _half_open, servers=_ONE),
    "late-writes": Fault("what a broken connection held arrives late", _late_writes, servers=_ONE),
    "clock": Fault("the clock of a process is shifted", _shift_clock),
    "disk": Fault("the scratch disk is full", _fill_disk),
}
"""Every kind, by the name that the command line gives it."""
