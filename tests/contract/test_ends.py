"""How a flow is stopped, and what dies with what.

Two of these are traps for whoever wants to stop a flow from outside: in a cluster an interrupt of
one process hangs every process, and with several workers AbortExecution on one hangs the others.
"""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_addresses

from .engine import (
    Engine,
    Outcome,
    connect,
    make_db,
    marks_of,
    part_file,
    rows_of,
    wait_until,
)

HANG_SECONDS = 2


@dataclass(frozen=True)
class Place:
    """Where a flow runs, and the files by which test and flow talk to each other."""

    db: Path
    started: Path
    go: Path

    def wait_for_sources(self, count: int) -> None:
        wait_until(lambda: len(list(self.started.iterdir())) >= count, "the sources emit")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    started = tmp_path / "started"
    started.mkdir()
    return Place(make_db(tmp_path / "db", 2), started, tmp_path / "go")


@contextmanager
def endless(place: Place, flow: str = "endless", **settings: object) -> Iterator[Engine]:
    with Engine(flow, place.db, started=str(place.started), **settings) as engine:
        yield engine


@contextmanager
def cluster(place: Place, flow: str = "endless", **settings: object) -> Iterator[list[Engine]]:
    """Two processes of two workers, each worker with a source that has begun to emit."""
    addresses = free_addresses(2)

    def process(index: int) -> Engine:
        return Engine(
            flow,
            place.db,
            workers=2,
            addresses=addresses,
            process=index,
            started=str(place.started),
            parts=4,
            **settings,
        )

    with process(0) as first, process(1) as second:
        place.wait_for_sources(4)
        yield [first, second]


def interrupted(outcome: Outcome) -> bool:
    return "KeyboardInterrupt" in (outcome.error, *outcome.causes)


def all_committed(place: Place) -> bool:
    """Tell whether each file holds a mark, and the same one."""
    last = {max(marks_of(part_file(place.db, part)), default=None) for part in range(2)}
    return len(last) == 1 and last != {None}


# --- Interrupt -----------------------------------------------------------------------------------


def test_interrupt_main_ends_run_main_with_an_error_caused_by_a_keyboard_interrupt(
    place: Place,
) -> None:
    with endless(place, interrupt_on=place.go) as engine:
        place.wait_for_sources(1)
        place.go.touch()
        outcome = engine.wait()
    assert (outcome.error, outcome.is_exception) == ("BytewaxRuntimeError", True)
    assert outcome.causes == ["KeyboardInterrupt"]


def test_sigint_ends_run_main_as_interrupt_main_does(place: Place) -> None:
    with endless(place) as engine:
        place.wait_for_sources(1)
        engine.popen.send_signal(signal.SIGINT)
        outcome = engine.wait()
    assert (outcome.error, outcome.causes) == ("BytewaxRuntimeError", ["KeyboardInterrupt"])


def test_interrupt_main_ends_cluster_main_of_one_process_with_a_plain_keyboard_interrupt(
    place: Place,
) -> None:
    with endless(place, workers=2, parts=2, interrupt_on=place.go) as engine:
        place.wait_for_sources(2)
        place.go.touch()
        outcome = engine.wait()
    assert (outcome.error, outcome.causes) == ("KeyboardInterrupt", [])


@pytest.mark.parametrize("workers", [None, 2])
def test_an_interrupted_flow_calls_close_of_its_sources_and_no_on_eof(
    place: Place, workers: int | None
) -> None:
    with endless(place, workers=workers, parts=2, interrupt_on=place.go) as engine:
        place.wait_for_sources(2)
        wait_until(lambda: all_committed(place), "an epoch is committed")
        place.go.touch()
        outcome = engine.wait()
    assert interrupted(outcome)
    assert sorted(outcome.calls) == ["close source0", "close source1"]
    assert rows_of(part_file(place.db, 0)) + rows_of(part_file(place.db, 1))


def test_an_interrupt_of_one_process_of_a_cluster_hangs_all_until_the_others_are_interrupted(
    place: Place,
) -> None:
    with cluster(place) as (first, second):
        first.popen.send_signal(signal.SIGINT)
        with pytest.raises(AssertionError, match="still waiting"):
            wait_until(lambda: not (first.running and second.running), "", HANG_SECONDS)
        second.popen.send_signal(signal.SIGINT)
        outcomes = [first.wait(), second.wait()]
    assert [one.error for one in outcomes] == ["KeyboardInterrupt", "KeyboardInterrupt"]
    assert not [call for one in outcomes for call in one.calls if call == "on_eof"]


# --- Abort ---------------------------------------------------------------------------------------


def test_abort_execution_on_the_only_worker_ends_the_run_without_an_error_and_without_on_eof(
    place: Place,
) -> None:
    with endless(place, parts=2, abort_after=30) as engine:
        outcome = engine.wait()
    assert outcome.error is None
    assert outcome.calls == ["abort", "close source0", "close source1"]


def test_abort_execution_on_one_of_two_workers_hangs_until_an_interrupt(place: Place) -> None:
    with endless(place, workers=2, abort_after=30, interrupt_on=place.go) as engine:
        place.wait_for_sources(1)
        with pytest.raises(AssertionError, match="still waiting"):
            wait_until(lambda: not engine.running, "", HANG_SECONDS)
        place.go.touch()
        outcome = engine.wait()
    assert outcome.error == "KeyboardInterrupt"
    assert outcome.calls[0] == "abort"
    assert "on_eof" not in outcome.calls


# --- Errors and deaths ---------------------------------------------------------------------------


def test_an_error_in_user_code_on_one_of_two_workers_is_raised_with_its_cause(place: Place) -> None:
    with endless(place, "failing", workers=2, fail_on=str(place.go)) as engine:
        place.wait_for_sources(1)
        place.go.touch()
        outcome = engine.wait()
    assert (outcome.error, outcome.is_exception) == ("BytewaxRuntimeError", True)
    assert outcome.causes[-1] == "ValueError"


def test_an_error_in_one_process_of_a_cluster_ends_all_with_a_panic_that_hides_it(
    place: Place,
) -> None:
    with cluster(place, "failing", fail_on=str(place.go)) as engines:
        place.go.touch()
        outcomes = [engine.wait() for engine in engines]
    assert {(one.error, one.is_exception) for one in outcomes} == {("PanicException", False)}
    assert [one.causes for one in outcomes] == [[], []]


def test_when_a_process_of_a_cluster_is_killed_the_other_ends_with_a_panic_and_runs_finally(
    place: Place,
) -> None:
    with cluster(place) as (first, second):
        second.kill()
        outcome = first.wait()
    assert (outcome.error, outcome.is_exception) == ("PanicException", False)


def test_sigterm_ends_the_process_without_finally(place: Place) -> None:
    with endless(place) as engine:
        place.wait_for_sources(1)
        engine.popen.terminate()
        assert engine.popen.wait() == -signal.SIGTERM


# --- SQLite's troubles ---------------------------------------------------------------------------


def hold_write_lock(place: Place, until: Callable[[], bool], seconds: float) -> None:
    """Keep every writer out of a file until something happens."""
    with closing(connect(part_file(place.db, 0))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        wait_until(until, "the lock shows its effect", seconds)
        connection.execute("ROLLBACK")


def test_a_write_lock_of_more_than_five_seconds_makes_the_engine_panic(place: Place) -> None:
    with endless(place) as engine:
        place.wait_for_sources(1)
        hold_write_lock(place, lambda: not engine.running, 10)
        outcome = engine.wait()
    assert outcome.error == "RuntimeError"
    assert "database is locked" in outcome.stderr


def test_a_write_lock_of_a_second_only_delays_the_engine(place: Place) -> None:
    with endless(place, interrupt_on=place.go) as engine:
        place.wait_for_sources(1)
        with pytest.raises(AssertionError, match="still waiting"):
            hold_write_lock(place, lambda: not engine.running, 1)
        before = len(marks_of(part_file(place.db, 0)))
        wait_until(lambda: len(marks_of(part_file(place.db, 0))) > before + 3, "it goes on")
        place.go.touch()
        assert interrupted(engine.wait())


def test_a_full_disk_makes_the_engine_panic(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        (tmp_path / "started").mkdir()
        place = Place(make_db(disk / "db", 1), tmp_path / "started", tmp_path / "go")
        with endless(place) as engine:
            place.wait_for_sources(1)
            outcome = engine.wait()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert outcome.error == "RuntimeError"
    assert "database or disk is full" in outcome.message


def test_a_write_that_the_system_refuses_makes_the_engine_panic(place: Place) -> None:
    with endless(place) as engine:
        place.wait_for_sources(1)
        resource.prlimit(engine.popen.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        outcome = engine.wait()
    assert outcome.error == "RuntimeError"
    assert "SqliteFailure" in outcome.message
