"""Waiting for writes: over at once where something was written, else for longer and longer."""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bytewax_redis_state.recovery.replicator import file_watch as module
from bytewax_redis_state.recovery.replicator.file_watch import FileWatch
from bytewax_redis_state.recovery.replicator.parent_process import ParentProcess

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")


@pytest.fixture
def parent(monkeypatch) -> ParentProcess:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reader))
    made = ParentProcess()
    made.end = lambda: os.close(writer)
    made.watch()
    return made


def waits(watch: FileWatch, count: int) -> list[float]:
    """Wait so often; gives the seconds of each."""
    times = [time.monotonic()]
    for _ in range(count):
        watch.wait()
        times.append(time.monotonic())
    return [b - a for a, b in pairwise(times)]


@LINUX
def test_a_write_ends_a_long_wait_and_the_next_ones_are_short(tmp_path: Path, parent, monkeypatch):
    """The write is told before SQLite shows it, so what waits has to look again soon."""
    monkeypatch.setattr(module, "_MOST_WITH_INOTIFY", 20.0)
    watch = FileWatch(tmp_path, parent)
    watch._next = 20.0
    file = tmp_path / "part-0.sqlite3-wal"
    file.touch()
    threading.Timer(0.05, lambda: file.write_bytes(b"x")).start()
    (first,) = waits(watch, 1)
    assert 0.04 < first < 10
    assert watch._next == module._LEAST
    watch.close()


@LINUX
def test_many_writes_end_one_wait(tmp_path: Path, parent):
    watch = FileWatch(tmp_path, parent)
    for number in range(100):
        (tmp_path / str(number)).write_bytes(b"x")
    looked = 0
    watch._next = 0.2
    while waits(watch, 1)[0] < 0.15 and looked < 50:
        looked += 1
        watch._next = 0.2
    assert looked <= 3
    watch.close()


def test_waits_grow_to_a_bound_while_nothing_is_written(tmp_path: Path, parent):
    watch = FileWatch(tmp_path, parent)
    taken = waits(watch, 15)
    assert taken[0] < taken[-1] < 5
    assert watch._next == watch._most
    watch.reset()
    assert watch._next == module._LEAST
    watch.close()


def test_where_nobody_tells_waits_stay_short(tmp_path: Path, parent, monkeypatch):
    """The lag from an epoch's end to the journal is this wait."""
    monkeypatch.setattr(module, "_open_inotify", lambda folder: None)
    watch = FileWatch(tmp_path, parent)
    waits(watch, 15)
    assert watch._next <= 0.02
    watch.close()


@LINUX
def test_a_folder_that_can_not_be_watched_is_waited_for(tmp_path: Path):
    assert module._open_inotify(tmp_path / "gone") is None


def test_the_end_of_the_dataflow_ends_a_wait(tmp_path: Path, parent):
    watch = FileWatch(tmp_path, parent)
    watch._next = 20.0
    threading.Timer(0.05, parent.end).start()
    (first,) = waits(watch, 1)
    assert first < 10
    assert parent.is_gone
    watch.close()
