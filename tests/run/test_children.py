"""A flow that forks children ends as if it had none, and leaves nothing with those it orphans."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from . import families
from .conftest import Sums, finished

FLOW = Path(families.__file__)
FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
ENDLESS = {"ITEMS": "1000000", "PAUSE": "0.02"}


def squares(items: int) -> int:
    return sum(number * number for number in range(1, items + 1))


@pytest.fixture
def children() -> Iterator[set[int]]:
    """The process IDs of children, which are ended with the test."""
    found: set[int] = set()
    yield found
    for child in found:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("way", families.WAYS)
def test_a_flow_with_children_ends_at_once(run, client, children, way):
    """The end of the replicator's input can't tell it: children may have copies of the input."""
    done = run(*FAST, file=FLOW, CHILDREN=way)
    children.update(map(int, done.stdout.split()))
    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr
    assert "Traceback" not in done.stderr
    assert Sums(client, "families").state() == {"k": squares(20)}
    assert list((run.folder / "scratch").glob("bytewax-outbox-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["executor", "library"])
def test_an_interrupted_flow_with_children_drains(run, client, eventually, children, way, number):
    held = Sums(client, "families")
    running = run.start(*FAST, file=FLOW, CHILDREN=way, **ENDLESS)
    eventually(lambda: held.manifest and held.manifest.processes and held.progress() > 3)
    running.send_signal(number)
    done = finished(running)
    children.update(map(int, done.stdout.split()))
    assert done.returncode == 130, done.stderr
    assert "drained" not in done.stderr
    assert held.leases() == []
    assert held.state() == {"k": squares(held.state("in")["part"])}


@pytest.mark.parametrize("way", ["executor", "process"])
def test_orphans_of_a_killed_flow_keep_neither_its_lock_nor_its_replicator(
    run, client, eventually, children, way
):
    held = Sums(client, "families")
    running = run.start(*FAST, file=FLOW, CHILDREN=way, **ENDLESS)
    children.add(int(running.stdout.readline()))
    eventually(lambda: held.manifest and held.manifest.processes and held.progress() > 3)
    (lock,) = (run.folder / "scratch").glob("bytewax-outbox-*/lock")
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    with lock.open() as file:

        def is_free() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        eventually(is_free)
    assert held.leases() == []
    (orphan,) = children
    assert "(zombie)" not in Path(f"/proc/{orphan}/status").read_text()
    done = run(*FAST, file=FLOW, CHILDREN=way, ITEMS=str(held.state("in")["part"] + 20))
    children.update(map(int, done.stdout.split()))
    assert done.returncode == 0, done.stderr
    assert list((run.folder / "scratch").glob("bytewax-outbox-*")) == []
