"""Two starts that Redis gave the same number, because it had lost that it gave it before.

As where a server comes back without the tail of its file, or where two primaries each gave it. The
start that has the cells keeps them, whatever the other one's processes send, and they say by whom
the flow was taken over.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from datetime import timedelta

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.doctor.verification import verify
from bytewax_redis_state.errors import FencedError, StateLostError
from bytewax_redis_state.recovery.start import steps
from bytewax_redis_state.server.client import connect
from tests.conftest import RedisProcess
from tests.crash.conftest import MakeJob
from tests.crash.processes import wait_until
from tests.crash.reference_flows import Ledger
from tests.crash.test_planted_bugs import replicator_of
from tests.crash.test_start_steps import killed_in_midstream
from tests.recovery.conftest import FlowInRedis

from .paused import dumped
from .test_lost_tail import NODES, go_back
from .test_stale_writer import REFUSED_FROM, STEPS, Stale

SAME_NUMBER = re.compile(
    r"generation 2 of the flow was taken over by start (\w+), "
    r"which has the same number as start (\w+)"
)
KEPT = timedelta(hours=1)


@pytest.fixture
def flow(client, namespace) -> FlowInRedis:
    """A flow at its first generation; a second start follows, which Redis will forget."""
    flow = FlowInRedis(client, namespace)
    flow.start(retention=KEPT)
    flow.commit(1, {"a": b"1"}, deadline=2**41)
    flow.journal_fold().fold(flow.journal(), 0, 1)
    return flow


@pytest.mark.parametrize("command", REFUSED_FROM)
def test_a_start_that_redis_forgot_writes_nothing(flow, monkeypatch, command) -> None:
    before = flow.dump()
    first = flow.start(retention=KEPT)
    stale, tried = Stale(flow), []
    go_back(flow, "all", before)

    def reached(step: str) -> None:
        if step not in STEPS:
            return
        before = flow.dump()
        with pytest.raises((FencedError, StateLostError)):
            getattr(stale, command)()
        assert flow.dump() == before
        tried.append(step)

    monkeypatch.setattr(steps, "reached", reached)
    second = flow.start(retention=KEPT)
    assert tried == list(STEPS)
    assert second.generation == first.generation
    if command in ("append", "fold"):
        with pytest.raises(FencedError, match=SAME_NUMBER) as refused:
            getattr(stale, command)()
        told = SAME_NUMBER.search(str(refused.value))
        assert told is not None
        assert told.groups() == (second.start, first.start)
    flow.commit(2, {"b": b"2"})
    flow.journal_fold().fold(flow.journal(), 1, 2)
    assert flow.state() == {"a": b"1", "b": b"2"}
    assert verify(flow.client, flow.keys).is_sound


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("step", STEPS[: STEPS.index("written")])
def test_of_two_starts_with_one_number_one_wins_at_most(flow, monkeypatch, step, node) -> None:
    """Redis forgets the first one's number at a step of it, and the second one goes first."""
    flow.commit(2, {"a": b"2"}, deadline=2**41)
    before, won, refused = flow.dump(), [], []

    def start() -> None:
        try:
            won.append(flow.start(retention=KEPT))
        except (FencedError, StateLostError) as error:
            refused.append(error)

    def reached(at: str) -> None:
        if at == step:
            monkeypatch.setattr(steps, "reached", lambda _: None)
            go_back(flow, node, before)
            start()

    monkeypatch.setattr(steps, "reached", reached)
    start()
    assert len(won) <= 1, "both have started"
    if won:
        assert flow.state() == {"a": b"2"}
        flow.restorer(manifest=won[0]).read()
        assert verify(flow.client, flow.keys).is_sound


# --- With real processes -------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize(("bug", "right"), [("lease-unheeded", True), ("one-start-id", False)])
def test_a_flow_asleep_while_redis_forgets_its_start_writes_nothing(
    make_job: MakeJob, start_redis: Callable[..., RedisProcess], bug: str, right: bool
) -> None:
    """It wakes when another start, with the same number, has made its journals."""
    server = start_redis("--appendonly", "no")
    job = make_job(Ledger(6000), url=server.url)
    killed_in_midstream(job)
    with connect(RedisConfig(url=server.url)) as client:
        client.save()
    first = job.start(bug=bug)
    assert job.reach_midstream(first, 3).generation == 2
    pids = (first[0].pid, replicator_of(first, 0))
    for pid in pids:
        first[0].send(signal.SIGSTOP, to=pid)
    server.kill()
    server.start()

    second = job.start(quick=True, bug=bug, at_step={0: "stop:shipping"})
    wait_until(lambda: second[0].is_stopped or not second.alive, "the other one has started")
    wait_until(lambda: job.leftover_keys() == [], "it has swept what older ones have left")
    before = dumped(job)
    for pid in pids:
        first[0].send(signal.SIGCONT, to=pid)
    wait_until(lambda: not first.alive or dumped(job) != before, "the first one writes or ends")
    if not right:
        assert dumped(job) != before
        return
    assert first.wait() == [2], first.said
    first[0].wait_for_group()
    assert dumped(job) == before
    assert SAME_NUMBER.search(first[0].err), first.said
    second[0].send(signal.SIGCONT)
    job.wait_for_end(second)
    assert job.differences() == []
    assert job.leftover_keys() == []
