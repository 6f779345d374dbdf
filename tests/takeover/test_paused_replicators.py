"""A replicator alone is paused past its lease, and goes on when its flow was taken over.

Its dataflow runs on meanwhile, or has ended and waits for it. It writes nothing, says who took
over, and the dataflow stops with the error; the successor's answer is exact. Once more without the
lease, which may be seen first: then the fences alone hold it back.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from bytewax_redis_state.chaos.network.proxy import Listener, Proxy
from tests.crash.conftest import MakeJob
from tests.crash.job import Job
from tests.crash.processes import Execution, trigger_of, wait_until
from tests.crash.reference_flows import Ledger

from .paused import is_paused, outlive_lease, take_over_and_wake

pytestmark = pytest.mark.crash

MIDSTREAM = ("idle", "append", "append-answer", "fold", "chunk", "trim")
AT_THE_END = ("append at the end", "drain", "drain-fold")
HELD_AT = ("written", "shipping")
"""Of the successor: with the old journals still there, or its own replicator at work."""

IN_SHORT = {("trim", "written", "lease-unheeded"), ("append at the end", "written", "")}
CASES = [
    (step, held_at, bug)
    for step in (*MIDSTREAM, *AT_THE_END)
    for held_at in HELD_AT
    for bug in ("", "lease-unheeded")
]


def started(make_job: MakeJob, step: str, processes: int, bug: str = "") -> tuple[Job, Execution]:
    """Start a flow, whose last replicator is to sleep at a step."""
    # In mid-stream the dataflow has input for longer than a lease lasts.
    job = make_job(Ledger(9000 if step in MIDSTREAM else 600))
    pauses = {processes - 1: f"replicator:{step.split(' ', maxsplit=1)[0]}"}
    # The last fold needs something that no checkpoint before it has folded.
    checkpoint = 60.0 if step == "drain-fold" else 0.3
    old = job.start(processes, at_step=pauses, bug=bug, checkpoint=checkpoint)
    if step in AT_THE_END:
        trigger_of(old.processes[-1].folder).touch()
    return job, old


def pause(job: Job, old: Execution, step: str) -> int:
    """Let the last replicator come to the step where it stops itself; gives its process ID."""
    old.wait_resumed()
    pid = old.processes[-1].replicator
    assert pid is not None, old.said
    if step in MIDSTREAM:
        job.reach_midstream(old, 3)
        trigger_of(old.processes[-1].folder).touch()
    wait_until(lambda: is_paused(pid), "it is paused")
    if step in AT_THE_END:
        wait_until(lambda: "lines" not in "".join(job.differences()), "the dataflow has ended")
    return pid


@pytest.mark.parametrize(
    ("step", "held_at", "bug"),
    [pytest.param(*c, marks=() if c in IN_SHORT else pytest.mark.long) for c in CASES],
)
def test_a_replicator_paused_past_its_lease_writes_nothing(
    make_job: MakeJob, step: str, held_at: str, bug: str
) -> None:
    job, old = started(make_job, step, 1, bug)
    stopped = pause(job, old, step)
    assert old[0].alive, old.said
    outlive_lease(job, 0)
    take_over_and_wake(job, old, [stopped], held_at=held_at)


@pytest.mark.long
@pytest.mark.parametrize(
    ("step", "held_at"),
    [
        ("idle", "shipping"),
        ("append", "written"),
        ("fold", "written"),
        ("chunk", "shipping"),
        ("trim", "written"),
        ("append at the end", "written"),
        ("drain", "shipping"),
    ],
)
def test_one_of_two_replicators_paused_past_its_lease_writes_nothing(
    make_job: MakeJob, step: str, held_at: str
) -> None:
    """The other one is awake: it holds its own lease until the flow is taken over, or drains."""
    job, old = started(make_job, step, 2)
    stopped = pause(job, old, step)
    outlive_lease(job, 1)
    if had_ended := [] if step in MIDSTREAM else [0]:
        assert old[0].wait() == 0, old.said
    take_over_and_wake(job, old, [stopped], 2, take_over=True, held_at=held_at, had_ended=had_ended)


# --- What is on its way to Redis -----------------------------------------------------------------


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    server = urlsplit(redis_url)
    assert server.hostname is not None
    assert server.port is not None
    made = Proxy([Listener((server.hostname, server.port))])
    made.start()
    yield made
    made.stop()


def is_held(proxy: Proxy, text: bytes) -> bool:
    held = [data for link in list(proxy.listeners[0].connections) for data in link.held or ()]
    return text in b"".join(held)


@pytest.mark.parametrize(
    ("step", "held_at"),
    [
        pytest.param("append", "written"),
        pytest.param("append", "shipping", marks=pytest.mark.long),
        pytest.param("fold-command", "written", marks=pytest.mark.long),
        pytest.param("fold-command", "shipping", marks=pytest.mark.long),
    ],
)
def test_what_arrives_after_the_takeover_changes_nothing(
    make_job: MakeJob, proxy: Proxy, step: str, held_at: str
) -> None:
    """It is sent, and kept on its way; the sender sleeps, and Redis gets it when it is too late."""
    job = make_job(Ledger(3000))
    direct = job.url
    job.url = urlsplit(direct)._replace(netloc=f"127.0.0.1:{proxy.listeners[0].port}").geturl()
    old = job.start(at_step={0: f"replicator:{step}"})
    job.url = direct
    stopped = pause(job, old, MIDSTREAM[0])
    proxy.hold_back(proxy.listeners)
    old[0].send(signal.SIGCONT, to=stopped)
    sent = b":journal:" if step == "append" else b":applied:"
    wait_until(lambda: is_held(proxy, sent), "it is on its way")
    old[0].send(signal.SIGSTOP, to=stopped)
    outlive_lease(job, 0)
    delivered: list[int] = []
    take_over_and_wake(
        job,
        old,
        [stopped],
        held_at=held_at,
        first=lambda: delivered.append(proxy.deliver(proxy.listeners)),
    )
    assert delivered[0] > 0
