"""What a paused process writes once it goes on: seen by holding the one that took over still.

The execution that takes over is stopped before its engine starts, when its replicators already
work: then nothing but leases changes in Redis, whoever else is alive.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from bytewax_redis_state.recovery.records.lease import Lease
from tests.crash.job import Job
from tests.crash.processes import Execution, wait_until

LEASE_SECONDS = 5.0
TAKEN_OVER = "was taken over by"


def is_paused(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat[stat.rindex(")") + 2] == "T"


def dumped(job: Job) -> dict[bytes, bytes]:
    """Everything that Redis holds of the flow, but for leases."""
    leases = job.keys.lease(0)[:-1]
    found = {key for p in job.keys.patterns for key in job.client.scan_iter(match=p, count=10_000)}
    return {key: job.client.dump(key) for key in found if not key.startswith(leases)}


def outlive_lease(job: Job, process: int) -> None:
    """Wait until nobody holds the lease of a process any more."""
    wait_until(lambda: not job.client.exists(job.keys.lease(process)), "the lease expires")


def have_claimed(job: Job, execution: Execution) -> bool:
    """Whether every process holds its lease, but for those that sleep, and have lost it since.

    One that has none, because a dead one's still drains, is not taken over: it is told that the
    flow is already running.
    """
    for number, process in enumerate(execution.processes):
        held = job.client.get(job.keys.lease(number))
        owner = None if held is None else Lease.from_json(held).pid
        if owner != process.pid and not process.is_stopped:
            return False
    return True


def take_over_and_wake(
    job: Job,
    old: Execution,
    stopped: Iterable[int],
    processes: int = 1,
    *,
    take_over: bool = False,
    held_at: str = "shipping",
    had_ended: Collection[int] = (),
    first: Callable[[], None] = lambda: None,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Take the flow over, wake who slept, and see that nobody of the old execution writes.

    :arg stopped: Process IDs.
    :arg take_over: Where others of the old execution are awake, and hold their leases.
    :arg held_at: Step at which those that take over are held still; the last one is when their
        replicators work. Before ``cleaned`` the old journals are there still, fenced.
    :arg had_ended: Processes of the old execution that had drained before.
    :arg first: Is called before who slept is woken; may not change anything either.
    :arg then: Is called when the old execution's dataflows have ended.
    """
    held = dict.fromkeys(range(processes), f"stop:{held_at}")
    if held_at == "written":  # by process 0 alone
        held.update(dict.fromkeys(range(1, processes), "stop:listed"))
    new = job.start(processes, quick=True, take_over=take_over, at_step=held, join_timeout=60)
    wait_until(lambda: all(m.is_stopped for m in new.processes) or not new.alive, "it takes over")
    assert new.alive, new.said
    if held_at == "shipping":
        wait_until(
            lambda: job.leftover_keys() == [], "its replicator has swept what others have left"
        )
    before = dumped(job)
    first()
    for pid in stopped:
        old[0].send(signal.SIGCONT, to=pid)
    codes = old.wait()
    then()
    for process in old.processes:
        process.wait_for_group()
    assert dumped(job) == before
    right = [0 if process in had_ended else 2 for process in range(len(codes))]
    assert codes == right, f"{codes}\n{old.said}"
    for number, process in enumerate(old.processes):
        assert number in had_ended or TAKEN_OVER in process.err, old.said
    for process in new.processes:
        process.send(signal.SIGCONT)
    job.wait_for_end(new)
    assert job.differences() == []
    assert job.leftover_keys() == []
