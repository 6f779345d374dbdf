"""Redis goes back to an earlier moment in the midst of a start: the start is exact, or refused.

As when a replica that lags takes over, or a server comes back with the tail of its file missing,
between two commands of a start; the client connects again without a word. In a cluster one node
may go back alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import combinations

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.errors import FencedError, ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.records.sweep import sweep
from bytewax_redis_state.recovery.start import steps
from bytewax_redis_state.server.client import connect
from tests.recovery.conftest import KEYED, FlowInRedis

STEPS = ("bumped", "newest", "fenced", "cells", "epoch", "checked", "folded", "settled", "written")
NODES: Mapping[str, Callable[[FlowInRedis, bytes], bool]] = {
    "all": lambda _flow, _key: True,
    "cells": lambda _flow, key: b"/s" in key,
    "partitions": lambda _flow, key: b"/p" in key,
    "manifest": lambda _flow, key: b"/s" not in key and b"/p" not in key,
}
DELTAS = {1: {"a": b"1", "b": b"1"}, 2: {"a": b"2", "c": b"2"}}


def go_back(flow: FlowInRedis, node: str, to: Mapping[bytes, bytes]) -> None:
    for key in flow.all_keys():
        if NODES[node](flow, key):
            flow.client.delete(key)
    for key, value in to.items():
        if NODES[node](flow, key):
            flow.client.restore(key, 0, value)


@pytest.fixture
def flow(client, namespace) -> FlowInRedis:
    return FlowInRedis(client, namespace)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("saved", "lost"), list(combinations(("before", *STEPS), 2)))
def test_a_tail_lost_between_two_steps_of_a_start(flow, monkeypatch, saved, lost, node) -> None:
    flow.start()
    flow.commit(1, DELTAS[1])
    flow.journal_fold().fold(flow.journal(), 0, 1)
    replica = {"before": flow.dump()}
    flow.commit(2, DELTAS[2])

    def reached(step: str) -> None:
        if step == lost:
            go_back(flow, node, replica[saved])
        replica[step] = flow.dump()

    monkeypatch.setattr(steps, "reached", reached)
    try:
        manifest = flow.start()
        flow.restorer().read()
    except (FencedError, StateLostError, ServerUnavailableError):
        return
    assert flow.state() == whole_before(manifest.resume_epoch)


def whole_before(epoch: int) -> dict[str, bytes]:
    state: dict[str, bytes] = {}
    for one in range(1, epoch):
        state |= DELTAS.get(one, {})
    return state


@pytest.mark.parametrize(
    ("saved", "lost"),
    [
        *(("before", lost) for lost in ("fenced", "settled", "written", "cleaned")),
        *(("fenced", lost) for lost in ("cells", "settled", "written", "cleaned")),
    ],
)
def test_a_server_started_anew_in_the_midst_of_a_start_loses_nothing_that_it_has(
    start_redis, namespace, monkeypatch, saved, lost
) -> None:
    """What was committed before its file was written is there again, and nobody deletes it."""
    server = start_redis("--appendonly", "no")
    with connect(RedisConfig(url=server.url)) as client:
        flow = FlowInRedis(client, namespace)
        flow.start()
        flow.commit(1, DELTAS[1])
        flow.journal_fold().fold(flow.journal(), 0, 1)
        flow.commit(2, DELTAS[2])

        def reached(step: str) -> None:
            if step == saved:
                client.save()
            if step == lost:
                server.kill()
                server.start()
                client.connection_pool.disconnect()  # the next command connects without a word

        reached("before")
        monkeypatch.setattr(steps, "reached", reached)
        with suppress(FencedError, StateLostError, ServerUnavailableError):
            flow.start()
            sweep(flow.store)
            flow.restorer().read()
            assert flow.state() == DELTAS[1] | DELTAS[2]
        monkeypatch.setattr(steps, "reached", lambda _: None)
        with suppress(FencedError):  # the cells may have the number that is given again
            flow.start()
        flow.start()
        flow.restorer().read()
        assert flow.state() == DELTAS[1] | DELTAS[2]


@pytest.mark.parametrize("lost", ["settled", "written", "cleaned"])
def test_a_step_that_was_dropped_on_a_server_started_anew_can_be_dropped_again(
    start_redis, namespace, monkeypatch, lost
) -> None:
    """The old manifest names its cells, which must not be gone then."""
    server = start_redis("--appendonly", "no")
    kept = StateStep("kept", "flow.kept.core", "flow.kept.core.shards", "keyed")
    with connect(RedisConfig(url=server.url)) as client:
        flow = FlowInRedis(client, namespace)
        flow.start((KEYED, kept))
        flow.commit(1, DELTAS[1])
        flow.commit(2, DELTAS[2], step="kept")

        def reached(step: str) -> None:
            if step == "folded":
                client.save()
            if step == lost:
                server.kill()
                server.start()
                client.connection_pool.disconnect()  # the next command connects without a word

        monkeypatch.setattr(steps, "reached", reached)
        with suppress(FencedError, StateLostError, ServerUnavailableError):
            flow.start((kept,), drop_steps=frozenset({"sum"}))
        monkeypatch.setattr(steps, "reached", lambda _: None)
        for _ in range(2):  # the cells may have the number that is given again
            with suppress(FencedError):
                manifest = flow.start((kept,), drop_steps=frozenset({"sum"}))
                break
        assert list(manifest.steps) == ["kept"]
        assert (flow.state("sum"), flow.state("kept")) == ({}, DELTAS[2])


@pytest.mark.parametrize("node", ["all", "cells"])
def test_a_tail_lost_while_the_state_is_read(flow, monkeypatch, node) -> None:
    """Keys and cells go back after the cells were looked at; the counts are as they were."""
    flow.start()
    flow.commit(1, {"a": b"1"})
    flow.journal_fold().fold(flow.journal(), 0, 1)
    flow.commit(2, {"a": b"2"})
    replica = flow.dump()
    flow.start()
    restorer = flow.restorer()
    read = restorer._read_keys

    def read_late(total: int) -> None:
        go_back(flow, node, replica)
        read(total)

    monkeypatch.setattr(restorer, "_read_keys", read_late)
    with pytest.raises(StateLostError, match="does not stand at generation 2, epoch 2"):
        restorer.read()
