"""Rules 5d and 5e: what an old replicator sends between two steps of a start is refused.

From the step that fences on; before it, it is taken, and the start reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from bytewax_redis_state.codec.delta import pack_delta
from bytewax_redis_state.codec.envelope import MSGPACK, seal
from bytewax_redis_state.errors import FencedError, StateLostError
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.fold import _Channels, _Round
from bytewax_redis_state.recovery.records.journal import Entry
from bytewax_redis_state.recovery.start import steps
from tests.recovery.conftest import SHARDS, FlowInRedis

STEPS = (
    "bumped",
    "newest",
    "fenced",
    "cells",
    "epoch",
    "checked",
    "folded",
    "settled",
    "written",
    "cleaned",
)
CELL = Cell("sum", shard_of("a", SHARDS))


class Stale:
    """Every command of a generation's replicator, with what it had when it was paused."""

    def __init__(self, flow: FlowInRedis) -> None:
        assert flow.manifest is not None
        self.flow, self.row = flow, flow.row[0]
        self.journal, self.journal_fold = flow.journal(), flow.journal_fold()
        self.life, self.applied = flow.manifest.incarnation, flow.applied(CELL.shard)
        self.token = str(flow.manifest.token)
        self.progress = flow.keys.progress(0, flow.manifest.generation)
        self.state_key = flow.keys.state("sum", CELL.shard, "a")

    def append(self) -> None:
        entry = Entry(3, self.row + 1, CELL, pack_delta({"a": seal("a", MSGPACK, b"stale")}))
        self.journal.append(self.row, self.row + 2, [entry], 4)

    def fold(self) -> None:
        stale = seal("a", MSGPACK, b"stale")
        with _Channels() as channels:
            self.journal_fold._apply(_Round(to_epoch=9, changes={CELL: {b"a": stale}}), 0, channels)

    def trim(self) -> None:
        self.journal.trim(3)

    def drop(self) -> None:
        self._piped(
            self.flow.scripts.drop_keys, self.applied, [self.state_key], self.life, self.token
        )

    def move_expiry(self) -> None:
        self._piped(
            self.flow.scripts.renew_keys, self.applied, [self.state_key], self.life, self.token, [9]
        )

    def count_out(self) -> None:
        self._piped(
            self.flow.scripts.settle_deadlines, self.applied, self.life, self.token, 9, {5: 1}
        )

    def settle(self) -> None:
        self._piped(self.flow.scripts.settle_cell, self.applied, self.life, self.token, 9)

    def confirm(self) -> None:
        self._piped(
            self.flow.scripts.note_confirming, self.progress, self.life, self.token, self.row
        )

    def answer(self) -> None:
        if not self.flow.scripts.post_answers(self.progress, self.life, self.token, 1, 1, 1):
            raise FencedError("the partition is not the writer's")

    def end_renewal(self) -> None:
        if not self.flow.scripts.end_renewal(self.flow.keys.manifest, self.life, self.token, 9):
            raise FencedError("the manifest is not the writer's")

    def write_manifest(self) -> None:
        keys, fields = self.flow.keys, {"resume_epoch": "9"}
        self._piped(
            self.flow.scripts.write_manifest,
            keys.generation,
            keys.manifest,
            self.life,
            self.token,
            "",
            fields,
        )

    def _piped(self, script: Callable[..., None], *args: object) -> None:
        with self.flow.client.pipeline(transaction=False) as pipe:
            script(*args, on=pipe)
            if pipe.execute()[0] in (None, 0):
                raise FencedError("not the writer's")


REFUSED_FROM = {
    "append": "fenced",
    "trim": "fenced",
    "confirm": "fenced",
    "answer": "fenced",
    "fold": "cells",
    "drop": "cells",
    "move_expiry": "cells",
    "count_out": "cells",
    "settle": "cells",
    "write_manifest": "bumped",
    "end_renewal": "written",
}


@pytest.fixture
def flow(client, namespace) -> FlowInRedis:
    flow = FlowInRedis(client, namespace)
    flow.start(retention=timedelta(hours=1))
    flow.commit(1, {"a": b"1"}, deadline=2**41)
    flow.journal_fold().fold(flow.journal(), 0, 1)
    flow.commit(2, {"a": b"2"}, deadline=2**41)
    return flow


@pytest.mark.parametrize("command", REFUSED_FROM)
def test_a_stale_command_changes_nothing_at_any_step(flow, monkeypatch, command) -> None:
    stale, tried = Stale(flow), []

    def reached(step: str) -> None:
        if step not in STEPS or STEPS.index(step) < STEPS.index(REFUSED_FROM[command]):
            return
        before = flow.dump()
        with pytest.raises((FencedError, StateLostError)) as refused:
            getattr(stale, command)()
        assert flow.dump() == before
        gone = step == "cleaned" and command in ("append", "trim")
        if command in ("append", "fold", "trim") and not gone:
            assert "generation 1 of the flow was taken over by generation 2" in str(refused.value)
        tried.append(step)

    monkeypatch.setattr(steps, "reached", reached)
    flow.start(retention=timedelta(hours=1))
    assert tried == list(STEPS[STEPS.index(REFUSED_FROM[command]) :])
    assert flow.state() == {"a": b"2"}
    flow.restorer().read()


@pytest.mark.parametrize("step", ["bumped"])
def test_what_comes_before_the_fence_is_kept(flow, monkeypatch, step) -> None:
    """It was acknowledged, so the start must know of it."""
    stale = Stale(flow)
    monkeypatch.setattr(steps, "reached", lambda at: stale.append() if at == step else None)
    manifest = flow.start(retention=timedelta(hours=1))
    assert (manifest.resume_epoch, flow.state()) == (4, {"a": b"stale"})
