"""Rule 10 while a flow runs: a manifest or a counter that is deleted is written again, or named."""

from __future__ import annotations

import pytest

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from tests.recovery.conftest import FlowInRedis
from tests.recovery.start.test_set_back import checkpointer as checkpointer


@pytest.mark.parametrize("kind", ["manifest", "generation"])
def test_a_manifest_or_a_counter_that_is_deleted_is_written_again(
    started: FlowInRedis, checkpointer: Checkpointer, kind: str
) -> None:
    started.commit(1, {"a": b"1"})
    checkpointer.checkpoint()
    key = getattr(started.keys, kind)
    read = started.client.hgetall if kind == "manifest" else started.client.get
    before = read(key)
    started.client.delete(key)
    checkpointer.checkpoint()
    assert read(key) == before
    generation = started.manifest.generation
    assert started.start().generation == generation + 1
    assert started.state() == {"a": b"1"}


def test_a_flow_that_has_lost_both_says_so(
    started: FlowInRedis, checkpointer: Checkpointer
) -> None:
    checkpointer.checkpoint()
    started.client.delete(started.keys.manifest, started.keys.generation)
    with pytest.raises(StateLostError, match="and the generation counter are missing"):
        checkpointer.checkpoint()


def test_a_newer_start_is_left_alone(started: FlowInRedis, checkpointer: Checkpointer) -> None:
    checkpointer.checkpoint()
    started.start()
    started.client.delete(started.keys.manifest)
    checkpointer._hold_flow()
    assert not started.client.exists(started.keys.manifest)


def test_an_entry_that_is_deleted_while_the_flow_runs_is_named_before_the_fold(
    started: FlowInRedis, checkpointer: Checkpointer
) -> None:
    for epoch in (1, 2, 3):
        started.commit(epoch, {"a": b"%d" % epoch})
    journal = started.keys.journal(0, 1)
    started.client.xdel(journal, started.client.xrange(journal)[1][0])
    with pytest.raises(StateLostError, match="holds 2 entries and must hold 3"):
        checkpointer.checkpoint()
    assert started.state() == {}
