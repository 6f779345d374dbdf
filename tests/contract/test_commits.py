"""Epochs in the outbox: their order, and what a commit mark promises about every file."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ports import free_addresses

from .engine import Engine, Gate, Row, connect, make_db, part_file, read_outbox

PARTS = 4
FIRST_EPOCH = 7
LAST_EPOCH = 24
LAYOUTS = {
    "run_main": (1, None, 20),
    "2 workers": (1, 2, 20),
    "3 workers": (1, 3, 20),
    "2 processes of 2 workers": (2, 2, 20),
    "1 key, mostly idle files": (1, 2, 1),
}


@dataclass(frozen=True)
class Sighting:
    """What somebody outside saw: a mark first, and only then the last row of each file."""

    mark: int
    last_ids: tuple[int, ...]


@dataclass
class Run:
    """A run with its outboxes and with what was seen while it went on."""

    db_dir: Path
    begun: list[tuple[str, int, list[int], list[int]]] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    files: list[list[Row]] = field(default_factory=list)

    def rows(self) -> list[tuple[int, Row]]:
        return [(i, row) for i, rows in enumerate(self.files) for row in rows if not row.is_mark]

    def marks(self) -> list[list[int]]:
        return [[row.epoch for row in rows if row.is_mark] for rows in self.files]


def look(db_dir: Path, mark_part: int) -> Sighting:
    """Read the mark of one file, and after that the last row of every file."""
    with ExitStack() as stack:
        files = [
            stack.enter_context(closing(connect(part_file(db_dir, part)))) for part in range(PARTS)
        ]
        [(mark,)] = files[mark_part].execute("SELECT max(commit_epoch) FROM commits").fetchall()
        last = [one.execute("SELECT max(id) FROM outbox").fetchone()[0] or 0 for one in files]
    return Sighting(mark or 0, tuple(last))


def poll(run: Run, over: threading.Event) -> None:
    turn = 0
    while not over.is_set():
        run.sightings.append(look(run.db_dir, turn % PARTS))
        turn += 1
        time.sleep(0.002)


def begin_epoch(run: Run, question: tuple[str, int]) -> bool:
    """Write down what every file holds before a source begins an epoch; the source waits."""
    part, epoch = question
    sights = [look(run.db_dir, one) for one in range(PARTS)]
    run.begun.append((part, epoch, [one.mark for one in sights], list(sights[-1].last_ids)))
    time.sleep(0.01 * int(part[-1]))  # sources of different speed
    return True


def observe(run: Run, processes: int, workers: int | None, keys: int) -> None:
    over = threading.Event()
    addresses = free_addresses(processes) if processes > 1 else None
    with ExitStack() as stack:
        gate = stack.enter_context(Gate(lambda question: begin_epoch(run, question)))
        engines = [
            stack.enter_context(
                Engine(
                    "epochs",
                    run.db_dir,
                    workers=workers,
                    addresses=addresses,
                    process=process,
                    gate=gate.path,
                    parts=3,
                    first_epoch=FIRST_EPOCH,
                    last_epoch=LAST_EPOCH,
                    keys=keys,
                )
            )
            for process in range(processes)
        ]
        poller = threading.Thread(target=poll, args=(run, over))
        poller.start()
        try:
            outcomes = [engine.wait() for engine in engines]
        finally:
            over.set()
            poller.join()
    assert [one.error for one in outcomes] == [None] * processes, outcomes
    run.files = [read_outbox(part_file(run.db_dir, part)) for part in range(PARTS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    runs = {}
    threads = []
    for layout, settings in LAYOUTS.items():
        db_dir = make_db(tmp_path_factory.mktemp("db"), PARTS, resume_epoch=FIRST_EPOCH)
        runs[layout] = Run(db_dir)
        threads.append(threading.Thread(target=observe, args=(runs[layout], *settings)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return runs


@pytest.fixture(params=LAYOUTS)
def a_run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    assert runs[request.param].files, "the run failed; see the output of its thread"
    return runs[request.param]


def test_rows_of_a_file_come_in_the_order_of_epochs(a_run: Run) -> None:
    for rows in a_run.files:
        epochs = [row.epoch for row in rows if not row.is_mark]
        assert epochs == sorted(epochs)


def test_a_key_has_at_most_one_row_per_epoch_in_the_whole_cluster(a_run: Run) -> None:
    counts = Counter((row.step_id, row.state_key, row.epoch) for _, row in a_run.rows())
    assert set(counts.values()) == {1}


def test_a_key_of_a_step_stays_in_one_file(a_run: Run) -> None:
    homes: dict[tuple, set[int]] = {}
    for file, row in a_run.rows():
        homes.setdefault((row.step_id, row.state_key), set()).add(file)
    assert all(len(files) == 1 for files in homes.values())


def test_one_key_of_two_steps_may_lie_in_two_files(runs: dict[str, Run]) -> None:
    homes: dict[str, set[int]] = {}
    for file, row in runs["2 workers"].rows():
        if row.state_key.startswith("key"):
            homes.setdefault(row.state_key, set()).add(file)
    assert max(len(files) for files in homes.values()) == 2


def test_rows_up_to_a_mark_are_the_rows_before_it(a_run: Run) -> None:
    for rows in a_run.files:
        for mark in (row for row in rows if row.is_mark):
            assert all(row.id < mark.id for row in rows if row.epoch <= mark.epoch and row != mark)


def test_every_epoch_is_marked_once_in_every_file(a_run: Run) -> None:
    first, *others = a_run.marks()
    assert first == list(range(FIRST_EPOCH, first[-1] + 1))
    assert all(marks == first for marks in others)


def test_a_file_without_a_single_row_gets_every_mark(runs: dict[str, Run]) -> None:
    run = runs["1 key, mostly idle files"]
    busy = {file for file, _ in run.rows()}
    idle = set(range(PARTS)) - busy
    assert idle, "choose other keys: every file got a row"
    assert all(run.marks()[file] == run.marks()[min(busy)] for file in idle)


def test_a_mark_in_any_file_means_that_every_file_has_every_row_up_to_it(a_run: Run) -> None:
    assert len({one.mark for one in a_run.sightings}) > 5, "the poller saw too little"
    for sighting in a_run.sightings:
        for rows, last_id in zip(a_run.files, sighting.last_ids, strict=True):
            late = [r for r in rows if r.id > last_id and r.epoch <= sighting.mark]
            assert not [row for row in late if not row.is_mark]


def test_a_source_begins_an_epoch_when_the_one_before_is_marked_in_every_file(a_run: Run) -> None:
    assert len(a_run.begun) >= 3 * (LAST_EPOCH - FIRST_EPOCH)
    for part, epoch, marks, last_ids in a_run.begun:
        before = 0 if epoch == FIRST_EPOCH else epoch - 1
        assert all(mark == before for mark in marks), (part, epoch, marks)
        for rows, last_id in zip(a_run.files, last_ids, strict=True):
            assert all(row.id <= last_id for row in rows if row.epoch < epoch)


def test_the_last_mark_covers_every_row_also_those_of_on_eof(a_run: Run) -> None:
    last_mark = a_run.marks()[0][-1]
    assert max(row.epoch for _, row in a_run.rows()) == last_mark
    last = {(row.step_id, row.state_key): row for _, row in a_run.rows()}
    keyed = [row for row in last.values() if row.state_key.startswith("key")]
    assert keyed
    assert {row.epoch for row in keyed} == {last_mark}
