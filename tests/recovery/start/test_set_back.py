"""Rule 9: a Redis that is set back between a fold and its trim keeps what it has to fold again."""

from __future__ import annotations

import pytest

from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from tests.recovery.conftest import SHARDS, FlowInRedis


@pytest.fixture
def checkpointer(started: FlowInRedis, redis_url: str) -> Checkpointer:
    manifest = started.manifest
    return Checkpointer(
        ReplicatorConfig(
            url=redis_url,
            credentials=None,
            path=(),
            connect_timeout=5,
            script_timeout=30,
            namespace=started.namespace,
            flow_id="flow",
            incarnation=manifest.incarnation,
            generation=manifest.generation,
            start=manifest.start,
            partition=0,
            partitions=1,
            resume_epoch=manifest.resume_epoch,
            shards=SHARDS,
            steps={"flow.sum.core.shards": ("sum", "keyed")},
            timed=(),
            offset=0,
            outbox="",
            status="",
            checkpoint_interval=1,
            drain_timeout=1,
            margin=60,
            durability="memory",
            lease="",
            manifest={},
            outbox_owner=(),
        ),
        FailoverGuard(False),
    )


def set_back(flow: FlowInRedis, to: dict[bytes, bytes]) -> None:
    flow.client.unlink(*flow.all_keys())
    for key, value in to.items():
        flow.client.restore(key, 0, value)


def committed(flow: FlowInRedis, *epochs: int) -> None:
    for epoch in epochs:
        flow.commit(epoch, {f"k{epoch}": b"%d" % epoch})


def test_a_trim_that_failed_is_forgotten_when_redis_has_lost_its_fold(
    started: FlowInRedis, checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
):
    committed(started, 1, 2)
    checkpointer.checkpoint()
    before, row = started.dump(), dict(started.row)
    committed(started, 3, 4)

    def unavailable(*_args: object) -> None:
        raise ServerUnavailableError("killed between the fold and its trim")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "trim", unavailable)
        with pytest.raises(ServerUnavailableError):
            checkpointer.checkpoint()
    set_back(started, before)
    checkpointer.checkpoint()  # nothing is to be folded yet, and nothing trimmed
    started.row = row
    committed(started, 3, 4, 5)  # sent again, from the margin
    checkpointer.checkpoint()
    assert started.state() == {f"k{n}": b"%d" % n for n in range(1, 6)}
    started.start()


def test_a_trim_that_finds_redis_started_anew_since_its_fold_drops_nothing(
    started: FlowInRedis, checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
):
    """The run ID stands for the restart; what was restored is as it was after epoch 4's append."""
    committed(started, 1, 2, 3, 4)
    before, trim = started.dump(), Journal.trim
    monkeypatch.setattr(checkpointer, "_run_id", lambda: "another run")

    def set_back_and_trim(self: Journal, *args: object) -> None:
        set_back(started, before)
        trim(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "trim", set_back_and_trim)
        checkpointer.checkpoint()
    monkeypatch.undo()
    committed(started, 5)
    checkpointer.checkpoint()
    assert started.state() == {f"k{n}": b"%d" % n for n in range(1, 6)}
    assert started.client.xlen(started.keys.journal(0, started.manifest.generation)) == 0
    started.start()


def test_a_fold_that_finds_redis_set_back_is_put_off(
    started: FlowInRedis, checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
):
    committed(started, 1, 2)
    before = started.dump()
    checkpointer.checkpoint()
    committed(started, 3)
    fold = type(checkpointer._journal_fold).fold

    def set_back_and_fold(self, journal: Journal, from_epoch: int, to_epoch: int) -> int:
        set_back(started, before)
        return fold(self, journal, from_epoch, from_epoch + 1)

    with monkeypatch.context() as patch:
        patch.setattr(type(checkpointer._journal_fold), "fold", set_back_and_fold)
        with pytest.raises(ServerUnavailableError):
            checkpointer.checkpoint()
    checkpointer.checkpoint()
    assert started.state() == {"k1": b"1", "k2": b"2"}
