"""The kinds of faults: how each is injected, and its requirements.

A fault is over when its function returns: Redis is back, connections work, processes go on, and
only processes that were killed are missing. The trial checks what the flow makes of it. After most
kinds it must be right. After a kind that damages records it may be refused, if it names them.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from bytewax_redis_state.chaos.damage import (
    RECORDS,
    Damage,
    alter_record,
    delete_record,
    lose_entries,
    lose_some_kinds,
    strike_records,
)
from bytewax_redis_state.chaos.faketime import faketime_library
from bytewax_redis_state.chaos.flow_process import FlowProcess
from bytewax_redis_state.chaos.process_limits import LIMITS, lowered
from bytewax_redis_state.chaos.schedule import MOMENTS, SERVERS, PlannedFault
from bytewax_redis_state.chaos.server_damage import empty_node, restore_dump, set_node_back
from bytewax_redis_state.chaos.servers.server_modes import why_unsupported
from bytewax_redis_state.chaos.small_disk import can_mount
from bytewax_redis_state.chaos.system import StuckError, SystemUnderTest
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

__all__ = ["DEFAULT_FAULTS", "EARLIER_COPY", "FAULTS", "Fault"]

EARLIER_COPY = "earlier"
"""Name of the copy of Redis's data that a trial keeps, of a time before the last faults."""

_PAST_A_LEASE = 6.5  # seconds
_SELDOM = 0.2  # share of the stops that are that long
_WAKES_IN_START = 0.5
_DAY = 24 * 3600
_FORWARD, _BACK = 0.4, 0.6  # below which a clock is set forward, and back by a little
_IN_STREAM = ("stream", "unshipped", "fold")
_ONE, _SENTINEL, _CLUSTER, _OWN = ((name,) for name in SERVERS)
_WITH_PORTS = ("single", "sentinel", "cluster")
_WITH_TAIL = 0.5  # share of the killed primaries whose replicas have all writes


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    :arg says: Its description.
    :arg inject: Injects it into the system, and returns when it is over.
    :arg moments: When it may strike.
    :arg servers: The kinds of Redis that it can strike.
    :arg loses: Redis may lose writes by it that it has acknowledged.
    :arg loses_in_groups: It can lead to a failover, where there are several servers.
    :arg damages: It damages records: the flow may be refused, if it names them.
    :arg stock: It can strike stock recovery, too.
    :arg not_yet: Why it is not among the kinds that strike by default; empty where it is.
    """

    says: str
    inject: Callable[[SystemUnderTest, PlannedFault], Damage | None]
    moments: Sequence[str] = MOMENTS
    servers: Sequence[str] = _WITH_PORTS
    loses: bool = False
    loses_in_groups: bool = False
    damages: bool = False
    stock: bool = False
    not_yet: str = ""

    def can_lose(self, servers: str) -> bool:
        """Tell whether Redis may lose acknowledged writes by it.

        :arg servers: One of ``schedule.SERVERS``.
        """
        grouped = servers in ("sentinel", "cluster")
        return self.loses or self.damages or (self.loses_in_groups and grouped)

    def missing(self, name: str) -> str:
        """Name the requirement that this machine lacks; empty where it has all."""
        if name == "clock" and faketime_library() is None:
            return "libfaketime is not installed (apt-get install faketime)"
        if name == "disk" and not can_mount():
            return "no small disk can be mounted here (root is needed)"
        return why_unsupported(self.servers[0])


# --- processes ----------------------------------------------------------------------------------


def _kill_worker(system: SystemUnderTest, planned: PlannedFault) -> None:
    with suppress(ProcessLookupError):
        system.process(planned.target).kill()


def _kill_process(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.process(planned.target).kill_group()


def _kill_all(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.execution.kill_groups()
    if planned.size < 0.5:  # else the next start finds what is left, and removes it
        shutil.rmtree(system.scratch / "0", ignore_errors=True)


def _replicators(processes: Sequence[FlowProcess]) -> list[int]:
    return [pid for process in processes if (pid := process.replicator) is not None]


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_replicator(system: SystemUnderTest, planned: PlannedFault) -> None:
    _signal_all(_replicators([system.process(planned.target)]), signal.SIGKILL)


def _length(planned: PlannedFault) -> float:
    """Give the seconds of a stop: seldom longer than a lease."""
    return _PAST_A_LEASE if planned.size < _SELDOM else planned.seconds


def _stop_for(pids: Sequence[int], seconds: float) -> None:
    _signal_all(pids, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        _signal_all(pids, signal.SIGCONT)


def _stop_worker(system: SystemUnderTest, planned: PlannedFault) -> None:
    _stop_for([system.process(planned.target).pid], _length(planned))


def _stop_replicator(system: SystemUnderTest, planned: PlannedFault) -> None:
    _stop_for(_replicators([system.process(planned.target)]), _length(planned))


def _stop_all(system: SystemUnderTest, planned: PlannedFault) -> None:
    pids = [pid for process in system.execution.processes for pid in process.group()]
    _stop_for(pids, _length(planned))


def _close_stderr(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Close the standard error of a process and its replicator, and let them have to say something.

    Both go on, but nobody reads what they write.
    """
    process = system.process(planned.target)
    process.close_err()
    if planned.size < 0.5:
        _signal_all(_replicators([process]), signal.SIGKILL)
        return
    listeners = system.listeners(planned.target, all_of_them=True)
    system.proxy.cut(listeners)
    time.sleep(planned.seconds)
    system.proxy.heal(listeners)


def _lower_limit(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Lower a limit of a process, of its replicator or of both to what they use now."""
    process = system.process(planned.target)
    kinds = [limit for limit in LIMITS if limit != "processes" or os.geteuid() != 0]
    replicators = _replicators([process])
    pids = ([process.pid], replicators, [process.pid, *replicators])[int(planned.offset * 3)]
    with lowered(kinds[int(planned.size * len(kinds))], pids):
        time.sleep(planned.seconds)


def _read_hostile(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Kill everything, so that the hostile values are read again."""
    system.execution.kill_groups()


def _remove_scratch(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Delete the scratch folder of a process, or of all, under the running processes."""
    folders = [system.scratch / str(planned.target % system.topology.processes)]
    if planned.size < 0.3:
        folders = [each for each in system.scratch.iterdir() if each.is_dir()]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


# --- another start ------------------------------------------------------------------------------


def _take_over(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Start the flow again while it runs or is stopped.

    Stopped processes go on in the middle of the new start, or after it.
    """
    old = system.execution
    stopped = _pids_to_stop(system, planned)
    _signal_all(stopped, signal.SIGSTOP)
    try:
        system.start(take_over=True)
        if planned.offset < _WAKES_IN_START:
            system.tend_until(system.has_claimed, "the flow is being taken over")
            time.sleep(planned.offset)
        else:
            system.tend_until(system.has_started, "the flow is taken over")
            time.sleep(planned.seconds / 4)
    finally:
        _signal_all(stopped, signal.SIGCONT)
    system.end_of(old)


def _pids_to_stop(system: SystemUnderTest, planned: PlannedFault) -> list[int]:
    process = system.process(planned.target)
    if planned.size < 0.3:
        return _replicators([process])
    if planned.size < 0.5:
        return [process.pid]
    if planned.size < 0.8:
        return [pid for each in system.execution.processes for pid in each.group()]
    return []


# --- Redis --------------------------------------------------------------------------------------


def _kill_redis(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.server.kill()
    time.sleep(planned.seconds)
    system.server.start()


def _stop_redis(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.server.pause()
    try:
        time.sleep(_length(planned))
    finally:
        system.server.go_on()


def _load_slowly(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.server.kill()
    # It answers LOADING for as long as it takes: so many microseconds for each command.
    slow = ("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
    system.server.start(*slow, wait=False)
    time.sleep(planned.seconds)
    system.server.load_fast()


def _read_only(system: SystemUnderTest, planned: PlannedFault) -> None:
    with system.server.connected() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            time.sleep(planned.seconds)
        finally:
            client.replicaof("NO", "ONE")


def _misconf(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.server.refuse_writes()
    try:
        time.sleep(planned.seconds)
    finally:
        system.server.take_writes()


def _maxmemory(system: SystemUnderTest, planned: PlannedFault) -> None:
    with system.server.connected() as client:
        client.config_set("maxmemory", "1mb")
        try:
            time.sleep(planned.seconds)
        finally:
            client.config_set("maxmemory", "0")


def _flush(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Empty Redis, and wait until the flow has written its whole state again, as promised."""
    before = system.manifest()
    assert before is not None
    with system.server.connected() as client:
        client.flushall()
    deadline = time.monotonic() + BOUND_SECONDS
    while True:
        manifest = system.manifest()
        if manifest and not manifest.renewing and manifest.incarnation != before.incarnation:
            return
        if not system.execution.alive:
            raise StuckError(f"the flow ended before its state was whole:\n{system.last_words}")
        if time.monotonic() > deadline:
            raise StuckError(
                f"the state is not whole {BOUND_SECONDS:.0f} s after FLUSHALL:\n{system.last_words}"
            )
        time.sleep(0.05)


def _lose_tail(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Set Redis back by some seconds, or to where it was before the last faults."""
    copy = EARLIER_COPY
    if planned.size < 0.7 or not system.server.remembers(copy):
        copy = "now"
        system.server.remember(copy)
        time.sleep(planned.seconds)
    system.server.forget_since(copy)


def _kill_keeper(system: SystemUnderTest, planned: PlannedFault) -> None:
    system.own_server.kill_keeper(and_server=planned.size < 0.5)


# --- servers that take over from each other -----------------------------------------------------


def _kill_primary(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Kill the server that holds a journal, and start it again as a replica of its successor."""
    key = system.journal(planned.target)
    if planned.size < _WITH_TAIL:
        before = system.group.primary_of(key)
        before.kill()
        system.group.wait_failed_over(before, key)
    else:
        before = system.group.lose_tail(key, partial(time.sleep, planned.seconds))
    system.group.rejoin(before)


def _order_failover(system: SystemUnderTest, planned: PlannedFault) -> None:
    key = system.journal(planned.target)
    before = system.group.primary_of(key)
    system.group.fail_over(before)
    system.group.wait_failed_over(before, key)


# --- the network --------------------------------------------------------------------------------


def _cut(system: SystemUnderTest, planned: PlannedFault) -> None:
    listeners = system.listeners(planned.target, all_of_them=planned.size < 0.5)
    system.proxy.cut(listeners)
    time.sleep(planned.seconds * (planned.offset < 0.7))  # or for a moment only
    system.proxy.heal(listeners)


def _delay(system: SystemUnderTest, planned: PlannedFault) -> None:
    listeners = system.listeners(planned.target, all_of_them=planned.offset < 0.5)
    system.proxy.delay(listeners, 0.01 + 0.15 * planned.size)
    time.sleep(planned.seconds)
    system.proxy.heal(listeners)


def _throttle(system: SystemUnderTest, planned: PlannedFault) -> None:
    listeners = system.listeners(planned.target, all_of_them=planned.offset < 0.5)
    system.proxy.throttle(listeners, 3_000 + 60_000 * planned.size)
    time.sleep(planned.seconds)
    system.proxy.heal(listeners)


def _half_open(system: SystemUnderTest, planned: PlannedFault) -> None:
    listeners = system.listeners(planned.target, all_of_them=planned.offset < 0.5)
    system.proxy.half_open(listeners, answers_only=planned.size < 0.5)
    time.sleep(planned.seconds)
    system.proxy.heal(listeners)


def _late_writes(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Let requests of a broken connection arrive late: they were sent again on another one."""
    listeners = system.listeners(planned.target, all_of_them=planned.offset < 0.5)
    system.proxy.hold_back(listeners)
    time.sleep(0.1 + 0.5 * planned.size)
    system.proxy.break_held(listeners)
    time.sleep(planned.seconds)
    system.proxy.deliver(listeners)


# --- clock and disk -----------------------------------------------------------------------------


def _shift_clock(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Set a clock forward, back by a second or two, or far back before the next start.

    Bytewax sleeps until a time of the wall clock. A clock that is set far back under a running
    source makes the source sleep for that long, with our recovery or with none; so the process is
    killed first.
    """
    process = planned.target % len(system.shifts)
    if planned.size < _FORWARD:
        shift = int(10 + planned.offset * _DAY)
    elif planned.size < _BACK:
        shift = -1 - round(planned.offset)
    else:
        system.process(planned.target).kill_group()
        shift = -int(10 + planned.offset * _DAY)
    system.shift_clock(process, system.shifts[process] + shift)
    time.sleep(planned.seconds)


def _fill_disk(system: SystemUnderTest, planned: PlannedFault) -> None:
    """Fill the scratch disk: the sources wait, or the flow stops, or no byte is left at all."""
    left = (40, 10, 0)[int(planned.size * 3)] * 1024 * 1024
    filler = system.scratch / "filler"
    room = max(0, shutil.disk_usage(system.scratch).free - left)
    with suppress(OSError):  # it is full
        filler.write_bytes(bytes(room))
    time.sleep(planned.seconds)
    filler.unlink(missing_ok=True)


def _deleted(record: str) -> Fault:
    strike = partial(strike_records, strike=delete_record(record))
    return Fault(f"a {record} is deleted, or expires", strike, _IN_STREAM, damages=True)


def _altered(record: str) -> Fault:
    strike = partial(strike_records, strike=alter_record(record))
    return Fault(f"a {record} is altered", strike, _IN_STREAM, damages=True)


_DAMAGES: Mapping[str, Fault] = {
    **{f"delete-{record}": _deleted(record) for record in RECORDS},
    **{f"alter-{record}": _altered(record) for record in RECORDS},
    "lose-entries": Fault(
        "entries of a journal are lost",
        partial(strike_records, strike=lose_entries),
        ("unshipped", "fold"),
        damages=True,
    ),
    "lose-kinds": Fault(
        "all records of some kinds are lost, and others are not",
        partial(strike_records, strike=lose_some_kinds),
        _IN_STREAM,
        damages=True,
    ),
    "older-dump": Fault(
        "an older dump of Redis is restored", restore_dump, _IN_STREAM, _ONE, damages=True
    ),
    "empty-node": Fault(
        "one node of a Redis Cluster is emptied", empty_node, _IN_STREAM, _CLUSTER, damages=True
    ),
    "node-back": Fault(
        "one node of a Redis Cluster goes back", set_node_back, _IN_STREAM, _CLUSTER, damages=True
    ),
}

_ALL: Mapping[str, Fault] = {
    "kill-worker": Fault(
        "SIGKILL of a dataflow process", _kill_worker, servers=SERVERS, stock=True
    ),
    "kill-process": Fault(
        "SIGKILL of a process and its replicator", _kill_process, servers=SERVERS, stock=True
    ),
    "kill-all": Fault("SIGKILL of everything", _kill_all, servers=SERVERS, stock=True),
    "kill-replicator": Fault("SIGKILL of a replicator", _kill_replicator, servers=SERVERS),
    "stop-worker": Fault(
        "SIGSTOP and SIGCONT of a dataflow process", _stop_worker, servers=SERVERS, stock=True
    ),
    "stop-replicator": Fault(
        "SIGSTOP and SIGCONT of a replicator", _stop_replicator, servers=SERVERS
    ),
    "stop-all": Fault("SIGSTOP and SIGCONT of everything", _stop_all, servers=SERVERS, stock=True),
    "take-over": Fault("another start takes over", _take_over, _IN_STREAM),
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
    "cut": Fault("connections are cut", _cut, loses_in_groups=True),
    "delay": Fault("the network is slow to answer", _delay, loses_in_groups=True),
    "throttle": Fault("the network has little bandwidth", _throttle, loses_in_groups=True),
    "half-open": Fault("connections go dead unnoticed", _half_open, loses_in_groups=True),
    "late-writes": Fault(
        "writes of a broken connection arrive late", _late_writes, loses_in_groups=True
    ),
    "clock": Fault("the clock of a process is shifted", _shift_clock),
    "disk": Fault("the scratch disk is full", _fill_disk),
    "remove-scratch": Fault("scratch folders are removed", _remove_scratch),
    "close-stderr": Fault("nobody reads standard error any longer", _close_stderr, _IN_STREAM),
    "limits": Fault("a process may use no more than it does", _lower_limit),
    "hostile-values": Fault("state of hostile shape is read again", _read_hostile),
    "kill-keeper": Fault(
        "SIGKILL of the keeper of an embedded server", _kill_keeper, servers=_OWN, loses=True
    ),
    **_DAMAGES,
}

_NOT_YET: Mapping[str, str] = {}
"""Kinds that find a defect which is known and not mended yet, and the defect."""

FAULTS: Mapping[str, Fault] = {
    name: replace(fault, not_yet=_NOT_YET.get(name, "")) for name, fault in _ALL.items()
}
"""Every kind, by its name on the command line."""

DEFAULT_FAULTS = tuple(name for name, fault in FAULTS.items() if not fault.not_yet)
"""The kinds that strike where none is chosen."""
