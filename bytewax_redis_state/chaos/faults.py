"""The kinds of faults: what each does to a system, and what it needs.

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

from bytewax_redis_state.chaos.faketime import faketime_library
from bytewax_redis_state.chaos.flow_process import FlowProcess
from bytewax_redis_state.chaos.schedule import MOMENTS, SERVERS, PlannedFault
from bytewax_redis_state.chaos.servers.server_modes import why_unsupported
from bytewax_redis_state.chaos.small_disk import can_mount
from bytewax_redis_state.chaos.system import StuckError, SystemUnderTest

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
    strike: Callable[[SystemUnderTest, PlannedFault], None]
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
        return why_unsupported(self.servers[0])


# --- processes ----------------------------------------------------------------------------------


def _kill_worker(system: SystemUnderTest, strike: PlannedFault) -> None:
    with suppress(ProcessLookupError):
        system.process(strike.target).kill()


def _kill_process(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.process(strike.target).kill_group()


def _kill_all(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.execution.kill_groups()
    if strike.size < 0.5:  # else the next start finds what is left, and removes it
        shutil.rmtree(system.scratch / "0", ignore_errors=True)


def _replicators(processes: Sequence[FlowProcess]) -> list[int]:
    return [pid for process in processes if (pid := process.replicator) is not None]


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_replicator(system: SystemUnderTest, strike: PlannedFault) -> None:
    _signal_all(_replicators([system.process(strike.target)]), signal.SIGKILL)


def _length(strike: PlannedFault) -> float:
    """Seldom past a lease's end."""
    return _PAST_A_LEASE if strike.size < _SELDOM else strike.seconds


def _stopped(pids: Sequence[int], seconds: float) -> None:
    _signal_all(pids, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        _signal_all(pids, signal.SIGCONT)


def _stop_worker(system: SystemUnderTest, strike: PlannedFault) -> None:
    _stopped([system.process(strike.target).pid], _length(strike))


def _stop_replicator(system: SystemUnderTest, strike: PlannedFault) -> None:
    _stopped(_replicators([system.process(strike.target)]), _length(strike))


def _stop_all(system: SystemUnderTest, strike: PlannedFault) -> None:
    pids = [pid for process in system.execution.processes for pid in process.group()]
    _stopped(pids, _length(strike))


# --- a second cluster ---------------------------------------------------------------------------


def _take_over(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Start the flow again while it runs, or sleeps; who sleeps wakes in mid-start, or later."""
    old = system.execution
    sleepers = _sleepers(system, strike)
    _signal_all(sleepers, signal.SIGSTOP)
    try:
        system.start(take_over=True)
        if strike.offset < _WAKES_IN_START:
            system.tend_until(system.has_claimed, "the flow is being taken over")
            time.sleep(strike.offset)
        else:
            system.tend_until(system.has_started, "the flow is taken over")
            time.sleep(strike.seconds / 4)
    finally:
        _signal_all(sleepers, signal.SIGCONT)
    system.end_of(old)


def _sleepers(system: SystemUnderTest, strike: PlannedFault) -> list[int]:
    process = system.process(strike.target)
    if strike.size < 0.3:
        return _replicators([process])
    if strike.size < 0.5:
        return [process.pid]
    if strike.size < 0.8:
        return [pid for each in system.execution.processes for pid in each.group()]
    return []


# --- Redis --------------------------------------------------------------------------------------


def _kill_redis(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.server.kill()
    time.sleep(strike.seconds)
    system.server.start()


def _stop_redis(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.server.pause()
    try:
        time.sleep(_length(strike))
    finally:
        system.server.go_on()


def _load_slowly(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.server.kill()
    # It answers LOADING for as long as it takes: so many microseconds for each command.
    slow = ("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
    system.server.start(*slow, wait=False)
    time.sleep(strike.seconds)
    system.server.load_fast()


def _read_only(system: SystemUnderTest, strike: PlannedFault) -> None:
    with system.server.connected() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            time.sleep(strike.seconds)
        finally:
            client.replicaof("NO", "ONE")


def _misconf(system: SystemUnderTest, strike: PlannedFault) -> None:
    system.server.refuse_writes()
    try:
        time.sleep(strike.seconds)
    finally:
        system.server.take_writes()


def _maxmemory(system: SystemUnderTest, strike: PlannedFault) -> None:
    with system.server.connected() as client:
        client.config_set("maxmemory", "1mb")
        try:
            time.sleep(strike.seconds)
        finally:
            client.config_set("maxmemory", "0")


def _flush(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Empty Redis, and wait for the promise: the flow makes its state whole again."""
    before = system.manifest()
    assert before is not None
    with system.server.connected() as client:
        client.flushall()
    deadline = time.monotonic() + _FLUSH_SECONDS
    while True:
        manifest = system.manifest()
        if manifest and not manifest.renewing and manifest.incarnation != before.incarnation:
            return
        if not system.execution.alive:
            raise StuckError(f"the flow ended before its state was whole:\n{system.last_words}")
        if time.monotonic() > deadline:
            raise StuckError(f"not whole {_FLUSH_SECONDS:.0f} s later:\n{system.last_words}")
        time.sleep(0.05)


def _lose_tail(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Set Redis back by some seconds, or to where it was before the last faults."""
    copy = EARLIER_COPY
    if strike.size < 0.7 or not system.server.remembers(copy):
        copy = "now"
        system.server.remember(copy)
        time.sleep(strike.seconds)
    system.server.forget_since(copy)


# --- servers that take over from each other -----------------------------------------------------


def _kill_primary(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Kill the server that has a journal, and start it again as a replica of its successor."""
    key = system.journal(strike.target)
    if strike.size < _WITH_TAIL:
        before = system.group.primary_of(key)
        before.kill()
        system.group.wait_failed_over(before, key)
    else:
        before = system.group.lose_tail(key, partial(time.sleep, strike.seconds))
    system.group.rejoin(before)


def _order_failover(system: SystemUnderTest, strike: PlannedFault) -> None:
    key = system.journal(strike.target)
    before = system.group.primary_of(key)
    system.group.fail_over(before)
    system.group.wait_failed_over(before, key)


# --- the network --------------------------------------------------------------------------------


def _cut(system: SystemUnderTest, strike: PlannedFault) -> None:
    listeners = system.listeners(strike.target, all_of_them=strike.size < 0.5)
    system.proxy.cut(listeners)
    time.sleep(strike.seconds * (strike.offset < 0.7))  # or for a moment only
    system.proxy.mend(listeners)


def _delay(system: SystemUnderTest, strike: PlannedFault) -> None:
    listeners = system.listeners(strike.target, all_of_them=strike.offset < 0.5)
    system.proxy.delay(listeners, 0.01 + 0.15 * strike.size)
    time.sleep(strike.seconds)
    system.proxy.mend(listeners)


def _throttle(system: SystemUnderTest, strike: PlannedFault) -> None:
    listeners = system.listeners(strike.target, all_of_them=strike.offset < 0.5)
    system.proxy.throttle(listeners, 3_000 + 60_000 * strike.size)
    time.sleep(strike.seconds)
    system.proxy.mend(listeners)


def _half_open(system: SystemUnderTest, strike: PlannedFault) -> None:
    listeners = system.listeners(strike.target, all_of_them=strike.offset < 0.5)
    system.proxy.half_open(listeners, answers_only=strike.size < 0.5)
    time.sleep(strike.seconds)
    system.proxy.mend(listeners)


def _late_writes(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Let what a broken connection still held arrive when all has been said again on another."""
    listeners = system.listeners(strike.target, all_of_them=strike.offset < 0.5)
    system.proxy.hold_back(listeners)
    time.sleep(0.1 + 0.5 * strike.size)
    system.proxy.break_held(listeners)
    time.sleep(strike.seconds)
    system.proxy.deliver(listeners)


# --- clock and disk -----------------------------------------------------------------------------


def _shift_clock(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Set a clock forward, back by a second or two, or far back, which the next start finds.

    Bytewax sleeps until a time by the wall clock: one that is set far back under a running source
    makes it sleep for that long, with our state or with none.
    """
    process = strike.target % len(system.shifts)
    if strike.size < _FORWARD:
        shift = int(10 + strike.offset * _DAY)
    elif strike.size < _BACK:
        shift = -1 - round(strike.offset)
    else:
        system.process(strike.target).kill_group()
        shift = -int(10 + strike.offset * _DAY)
    system.shift_clock(process, system.shifts[process] + shift)
    time.sleep(strike.seconds)


def _fill_disk(system: SystemUnderTest, strike: PlannedFault) -> None:
    """Leave so little room that the sources wait, or that the flow stops, or none at all."""
    left = (40, 10, 0)[int(strike.size * 3)] * 1024 * 1024
    filler = system.scratch / "filler"
    room = max(0, shutil.disk_usage(system.scratch).free - left)
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
