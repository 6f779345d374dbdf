"""Leases: who runs a process of the flow, where, and since when.

A lease is for people and for the start (it says "running elsewhere"); what keeps a stale process
from writing is the fence, never the lease.

Invariant: a lease is renewed by its owner alone, and is free once it has expired, its owner gave it
back, or its owner's process is seen to be dead on this host.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import cast

import redis

from bytewax_redis_state.errors import (
    FencedError,
    FlowRunningError,
    ServerError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.watched_thread import WatchedThread
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import address_of
from bytewax_redis_state.server.translation import translated

__all__ = ["LEASE_SECONDS", "Lease", "LeaseHolder", "claim", "read_leases", "this_owner"]

logger = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
"""How long a lease lives unless it is renewed."""

_RENEW_SECONDS = 1.0
_BEATS_OF_LIFE = 1  # a process that is just dying may renew once more
_DRAIN_SECONDS = 30.0
_NO_TEXT = "?"  # what claim_lease.lua replaces then, in place of an owner


@dataclass(frozen=True)
class Lease:
    """What a process says of itself in its lease.

    :arg id: Random ID of the process, new with each start.
    :arg process: Its number in the cluster.
    :arg cluster: Hash of the cluster's shape and addresses: two clusters don't mix.
    :arg phase: ``joining``, ``running`` or ``draining``.
    :arg machine: Host name, boot and PID namespace: what a PID is valid in.
    :arg pid: Of the dataflow's process, with the time it started at.
    :arg since: When it started, ISO 8601 in UTC.
    :arg parts: Short name of each source and sink to the partitions it lists.
    """

    id: str
    process: int
    cluster: str
    phase: str
    host: str
    machine: str
    pid: int
    pid_started: str
    since: str
    beat: int = 0
    parts: Mapping[str, list[str]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Give the value that Redis holds."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, value: bytes) -> Lease:
        """Read the value that Redis holds.

        :raises StateLostError: If it is no lease.
        """
        try:
            lease = cls(**json.loads(value))
            lease._check()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StateLostError(
                f"a lease of the flow can't be read: {value[:80]!r}; another program may have "
                "written it",
                "nothing to do: a process that runs writes it again, and a start replaces it",
            ) from error
        return lease

    @classmethod
    def or_none(cls, value: bytes) -> Lease | None:
        """Read the value that Redis holds, ``None`` where it is no lease."""
        try:
            return cls.from_json(value)
        except StateLostError:
            return None

    def _check(self) -> None:
        numbers = (self.process, self.pid, self.beat)
        texts = (self.id, self.cluster, self.phase, self.host, self.machine, self.since)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("a number is none")
        for text in (*texts, self.pid_started, *self.parts, *chain(*self.parts.values())):
            text.encode()

    @property
    def owner_is_dead(self) -> bool:
        """Whether its process ran on this very machine and is gone."""
        return self.machine == _machine() and _pid_started(self.pid) != self.pid_started

    @property
    def whereabouts(self) -> str:
        """Where it runs and since when, in words."""
        return f"process {self.process} on host {self.host} (pid {self.pid}), since {self.since}"


def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux only; elsewhere the host's name must do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _pid_started(pid: int) -> str:
    """Tell when a process started, in the kernel's ticks; empty where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
        return _exists(pid)
    fields = stat[stat.rindex(")") + 2 :].split()
    # A zombie has died; nobody has asked for its exit code yet.
    return "" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "exists"


def this_owner(process: int, cluster: str, parts: Mapping[str, list[str]]) -> Lease:
    """Describe the running process as the owner of a lease."""
    return Lease(
        id=os.urandom(16).hex(),
        process=process,
        cluster=cluster,
        phase="joining",
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        pid_started=_pid_started(os.getpid()),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        parts=parts,
    )


def read_leases(client: redis.Redis, keys: FlowKeys, processes: range) -> dict[int, Lease]:
    """Read the leases of some processes of a flow.

    :arg processes: Their numbers.
    :returns: Number of a process to its lease; a process without one is left out. So is one whose
        lease can't be read: while it lives it writes its lease again.
    """
    values = cast("list[bytes | None]", client.mget([keys.lease(i) for i in processes]))
    return {
        i: lease
        for i, value in zip(processes, values, strict=True)
        if value is not None and (lease := Lease.or_none(value)) is not None
    }


def claim(
    scripts: Scripts,
    keys: FlowKeys,
    lease: Lease,
    *,
    take_over: bool,
    say: Callable[[str], None],
) -> None:
    """Take the lease of a process, waiting for one that is about to end.

    What can't be read as a lease is replaced, unless its owner writes it again meanwhile.

    :arg lease: What to put there.
    :arg take_over: Replace a live owner too.
    :arg say: Gets a line when there is something to wait for.
    :raises FlowRunningError: If the owner is alive: it renewed the lease while we watched.
    """
    key = keys.lease(lease.process)
    replace_owner: str | bytes = "*" if take_over else ""
    first: Lease | None = None
    unreadable_since: float | None = None
    started = time.monotonic()
    while True:
        held = scripts.claim_lease(
            key, lease.id, lease.to_json(), int(LEASE_SECONDS * 1000), replace_owner
        )
        if held is None:
            return
        holder = Lease.or_none(held)
        if holder is None:
            if unreadable_since is None:
                unreadable_since = time.monotonic()
                say(
                    f"waiting for the owner of {key.decode()!r}, which holds no lease: {_cut(held)}"
                )
            elif time.monotonic() > unreadable_since + LEASE_SECONDS:
                replace_owner = held or _NO_TEXT
            time.sleep(0.1)
            continue
        unreadable_since = None
        if _has_ended(holder, time.monotonic() - started):
            replace_owner = holder.id
            continue
        if first is None or first.id != holder.id:
            first = holder
            say(f"waiting for {holder.whereabouts}: {holder.phase}")
        if holder.phase != "draining" and holder.beat > first.beat + _BEATS_OF_LIFE:
            raise FlowRunningError(
                f"the flow {keys.flow_id!r} is already running: {holder.whereabouts}",
                "stop it first, or take it over with --take-over",
            )
        time.sleep(0.1)


def _cut(value: bytes) -> str:
    return repr(value[:80]) if value else "it is no text"


def _has_ended(holder: Lease, waited: float) -> bool:
    # A replicator that drains is given the time to: what it ships need not be replayed.
    if holder.phase == "draining":
        return waited > _DRAIN_SECONDS
    return holder.owner_is_dead


class LeaseHolder:
    """Renews a lease in a thread, until it is told to stop or finds another owner in it.

    :arg client: Where the lease is.
    :arg scripts: Registered for that client.
    :arg on_failure: Gets the error that says who holds the lease now, or why nobody renews it any
        longer; called once, in the thread.
    """

    def __init__(
        self,
        client: redis.Redis,
        scripts: Scripts,
        keys: FlowKeys,
        lease: Lease,
        on_failure: Callable[[StateError], None],
    ) -> None:
        self._scripts = scripts
        self._address = address_of(client)
        self._key = keys.lease(lease.process)
        self._lease = lease
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._thread = WatchedThread("lease", self._run, on_failure)

    def start(self) -> LeaseHolder:
        """Begin to renew.

        :raises ReplicatorError: If the system has no thread to give.
        """
        self._thread.start()
        return self

    def say(self, phase: str) -> None:
        """Change the phase and show it at once."""
        with self._lock:
            self._lease = replace(self._lease, phase=phase)
        self._renew()

    def _renew(self) -> None:
        with self._lock:
            self._lease = replace(self._lease, beat=self._lease.beat + 1)
            lease = self._lease
        held = self._claim(lease)
        if held is not None and Lease.or_none(held) is None:
            # Nobody's: another program has written here. What replaces it is ours, as it was.
            logger.warning("lease written again key=%s held=%s", self._key.decode(), _cut(held))
            held = self._claim(lease, replace=held or _NO_TEXT)
        holder = None if held is None else Lease.or_none(held)
        if holder is not None:
            self._thread.ask_to_stop()
            self._on_failure(FencedError(f"the flow was taken over by {holder.whereabouts}"))

    def _claim(self, lease: Lease, replace: str | bytes = "") -> bytes | None:
        with translated(self._address):
            return self._scripts.claim_lease(
                self._key, lease.id, lease.to_json(), int(LEASE_SECONDS * 1000), replace
            )

    def _run(self) -> None:
        while not self._thread.wait(_RENEW_SECONDS):
            # Redis away: the lease expires, and comes back with Redis unless somebody took it.
            with suppress(ServerError):
                self._renew()

    @property
    def lease(self) -> Lease:
        """As it was last written."""
        with self._lock:
            return self._lease

    def stop(self, *, release: bool) -> None:
        """Stop renewing, and give the lease back where asked to."""
        self._thread.stop(timeout=LEASE_SECONDS)
        if release:
            with suppress(ServerError), translated(self._address):  # it expires by itself
                self._scripts.release_lease(self._key, self._lease.id)
