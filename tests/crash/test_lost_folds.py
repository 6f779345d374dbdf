"""Rule 9, the cells' side: a fold that Redis has lost is folded again, from the journal.

Redis goes back to what its file held when a replicator stood still before it, and is started anew
while the replicator stands still again, after its fold. Nothing is left to luck: what was folded in
between is lost, and the flow ends exact without having been stopped.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakeJob
from .job import Job
from .processes import Execution, trigger_of, wait_until
from .reference_flows import Ledger

pytestmark = pytest.mark.crash

_EACH_WRITE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class Forgetful:
    """A Redis whose file can be kept and brought back."""

    def __init__(self, server: Any, kept: Path) -> None:
        self.server = server
        self._file = server.folder / "appendonlydir"
        self._kept = kept

    def keep(self) -> None:
        self.server.hold()  # it writes to the file before it answers
        shutil.copytree(self._file, self._kept)
        self.server.go_on()

    def go_back(self) -> None:
        self.server.kill()
        shutil.rmtree(self._file)
        shutil.copytree(self._kept, self._file)
        self.server.start()


@pytest.fixture
def forgetful(start_redis: Callable[..., Any], tmp_path: Path) -> Forgetful:
    return Forgetful(start_redis(*_EACH_WRITE), tmp_path / "kept")


def applied(job: Job, partition: int) -> int:
    """Give the least epoch that a cell has applied of a partition."""
    keys = (job.keys.applied("balance", shard) for shard in range(64))
    return min(int(job.client.hget(key, f"p{partition}") or 0) for key in keys)


def trimmed(job: Job, partition: int) -> int:
    return int(job.client.hget(job.keys.progress(partition, 1), "trimmed") or 0)


def pause(old: Execution, pid: int) -> None:
    stat = Path(f"/proc/{pid}/stat")
    wait_until(lambda: ") T " in stat.read_text() or not old.alive, "it stands still")
    assert old.alive, old.said


@pytest.mark.parametrize(
    ("processes", "kept_at", "lost_at"),
    [
        pytest.param(1, "fold", "trim", id="the cells"),
        # The fold that is lost begins after the append: one that was under way then may be done
        # before Redis's file is kept.
        pytest.param(1, "append", "fold,trim", id="cells and journal", marks=pytest.mark.long),
        pytest.param(1, "append", "fold,trimmed", id="also the trim", marks=pytest.mark.long),
        pytest.param(2, "fold", "trim", id="of two: the cells", marks=pytest.mark.long),
        pytest.param(2, "append", "fold,trimmed", id="of two: all", marks=pytest.mark.long),
    ],
)
def test_a_fold_that_redis_has_lost_is_folded_again(
    make_job: MakeJob, forgetful: Forgetful, processes: int, kept_at: str, lost_at: str
) -> None:
    job = make_job(Ledger(6000), forgetful.server.url)
    flow = job.start(processes, at_step={0: f"replicator:{kept_at},{lost_at}"})
    job.reach_midstream(flow, 5)
    pid = flow[0].replicator
    assert pid is not None
    trigger_of(flow[0].folder).touch()
    pause(flow, pid)
    forgetful.keep()
    kept = applied(job, 0)
    for _ in lost_at.split(","):
        flow[0].send(signal.SIGCONT, to=pid)
        pause(flow, pid)
    assert applied(job, 0) > kept
    folded = applied(job, 0)
    forgetful.go_back()
    assert applied(job, 0) == kept < folded
    assert trimmed(job, 0) <= kept + 1, "the journal holds what is to be folded"
    flow[0].send(signal.SIGCONT, to=pid)
    job.wait_for_end(flow)
    assert applied(job, 0) > folded
    assert job.differences() == []
    assert job.leftover_keys() == []
