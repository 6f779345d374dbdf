"""Fresh files that the engine takes for its own recovery, and what stock recovery gets wrong."""

from __future__ import annotations

import io
import pickle
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.ports import free_addresses

from .engine import (
    Engine,
    Snap,
    make_db,
    marks_of,
    part_file,
    query,
    rows_of,
    run,
    run_well,
    wait_until,
)

STEP = "resume.join"


def snap(key: str, epoch: int, value: object = "old") -> Snap:
    return Snap(STEP, key, epoch, pickle.dumps(value))


def loaded(calls: list[Any]) -> list[str]:
    return sorted(call[2] for call in calls if call[0] == "load")


# --- Fresh partitions with one exs row -----------------------------------------------------------


def test_without_an_exs_row_the_engine_starts_execution_0_at_epoch_1(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    run_well("resume", db, batches=[[("a", "1")]])
    assert query(part_file(db, 0), "SELECT ex_num, resume_epoch FROM exs") == [(0, 1)]
    assert marks_of(part_file(db, 0))[0] == 1


@pytest.mark.parametrize("workers", [None, 1, 2, 3])
def test_one_exs_row_of_one_worker_starts_the_next_execution_at_its_epoch_on_any_workers(
    tmp_path: Path, workers: int | None
) -> None:
    db = make_db(tmp_path, 2, resume_epoch=17, ex_num=5)
    run_well("resume", db, workers=workers, batches=[[("a", "1")]])
    executions = {
        row
        for part in range(2)
        for row in query(part_file(db, part), "SELECT ex_num, worker_count, resume_epoch FROM exs")
    }
    assert executions == {(5, 1, 17), (6, workers or 1, 17)}
    assert marks_of(part_file(db, 0))[0] == 17


def test_rows_may_sit_in_any_partition(tmp_path: Path) -> None:
    snaps = {part: [snap(f"key{part}", 3, f"state{part}")] for part in range(4)}
    db = make_db(tmp_path, 4, resume_epoch=4, snaps=snaps)
    calls = run_well("resume", db, workers=2)
    assert loaded(calls) == ["state0", "state1", "state2", "state3"]


def test_rows_below_the_resume_epoch_are_loaded_and_others_dropped_without_a_word(
    tmp_path: Path,
) -> None:
    rows = [snap("below", 9, "below"), snap("at", 10, "at"), snap("above", 11, "above")]
    db = make_db(tmp_path, 1, resume_epoch=10, snaps={0: rows})
    outcome = run("resume", db)
    assert (outcome.error, loaded(outcome.calls)) == (None, ["below"])
    assert "above" not in outcome.stderr


def test_of_several_rows_of_a_key_in_a_file_the_latest_below_the_resume_epoch_is_loaded(
    tmp_path: Path,
) -> None:
    rows = [snap("a", 2, "2"), snap("a", 8, "8"), snap("a", 12, "12")]
    db = make_db(tmp_path, 1, resume_epoch=10, snaps={0: rows})
    assert loaded(run_well("resume", db)) == ["8"]


def test_a_row_with_a_null_change_loads_nothing(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, resume_epoch=10, snaps={0: [Snap(STEP, "a", 2, None)]})
    assert loaded(run_well("resume", db)) == []


def test_rows_of_epoch_0_make_the_engine_panic(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, resume_epoch=2, snaps={0: [snap("a", 0)]})
    outcome = run("resume", db)
    assert outcome.error == "RuntimeError"
    assert "load_partition is empty" in outcome.message


def test_rows_of_epoch_1_with_resume_epoch_2_are_the_lowest_that_load(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, resume_epoch=2, snaps={0: [snap("a", 1)]})
    assert loaded(run_well("resume", db)) == ["old"]


def test_keys_of_a_step_are_loaded_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"p{piece:06d}.3.1" for piece in range(3)] + ["s3.0"]
    rows = [snap(name, 1, name) for name in reversed(names)]
    db = make_db(tmp_path, 1, resume_epoch=2, snaps={0: rows})
    assert [call[2] for call in run_well("resume", db) if call[0] == "load"] == names


def test_every_row_of_several_pages_of_a_thousand_is_loaded(tmp_path: Path) -> None:
    rows = [snap(f"key{i:04d}", 1, f"{i:04d}") for i in range(2_500)]
    db = make_db(tmp_path, 1, resume_epoch=2, snaps={0: rows})
    assert loaded(run_well("resume", db)) == [f"{i:04d}" for i in range(2_500)]


def test_a_row_of_a_step_that_is_gone_is_dropped_without_a_word(tmp_path: Path) -> None:
    db = make_db(
        tmp_path, 1, resume_epoch=2, snaps={0: [Snap("resume.gone", "a", 1, pickle.dumps("x"))]}
    )
    assert loaded(run_well("resume", db)) == []


def test_state_of_a_source_partition_that_is_no_longer_listed_makes_the_engine_panic(
    tmp_path: Path,
) -> None:
    gone = Snap("resume.inp", "gone", 1, pickle.dumps(1))
    outcome = run("resume", make_db(tmp_path, 1, resume_epoch=2, snaps={0: [gone]}))
    assert outcome.error == "RuntimeError"
    assert "not in this worker's routing map" in outcome.message


# --- Files on several processes ------------------------------------------------------------------


def run_two_processes(db_dirs: list[Path], **args: object) -> list[Any]:
    addresses = free_addresses(2)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                Engine("resume", db_dir, workers=2, addresses=addresses, process=process, **args)
            )
            for process, db_dir in enumerate(db_dirs)
        ]
        return [engine.wait() for engine in engines]


def split(whole: Path, parts: int) -> list[Path]:
    """Give each part file a directory of its own."""
    homes = []
    for part in range(parts):
        home = whole.with_name(f"process{part}")
        home.mkdir()
        part_file(whole, part).rename(part_file(home, part))
        homes.append(home)
    return homes


def test_each_process_opens_only_the_files_of_its_directory(tmp_path: Path) -> None:
    snaps = {part: [snap(f"key{i}{part}", 6, f"{i}{part}") for i in range(8)] for part in range(2)}
    whole = make_db(tmp_path / "whole", 2, resume_epoch=7, snaps=snaps)
    homes = split(whole, 2)
    outcomes = run_two_processes(homes, batches=[[(f"key{i}0", "!") for i in range(8)]])
    assert [one.error for one in outcomes] == [None, None]
    assert loaded([call for one in outcomes for call in one.calls]) == sorted(
        f"{i}{part}" for i in range(8) for part in range(2)
    )
    marks = [marks_of(part_file(home, part)) for part, home in enumerate(homes)]
    assert marks[0] == marks[1]
    assert marks[0][0] == 7
    rows = [row for part, home in enumerate(homes) for row in rows_of(part_file(home, part))]
    assert {row.state_key for row in rows if row.step_id == STEP} == {
        f"key{i}{part}" for i in range(8) for part in range(2)
    }
    assert all(rows_of(part_file(home, part)) for part, home in enumerate(homes))


def test_processes_that_disagree_on_the_number_of_partitions_do_not_start(tmp_path: Path) -> None:
    homes = split(make_db(tmp_path / "whole", 2), 2)
    query(part_file(homes[1], 1), "UPDATE parts SET part_count = 3")
    outcomes = run_two_processes(homes)
    assert [one.error for one in outcomes] == ["PanicException", "PanicException"]


def test_files_of_one_process_that_disagree_on_their_number_are_refused(tmp_path: Path) -> None:
    db = make_db(tmp_path, 2)
    query(part_file(db, 1), "UPDATE parts SET part_count = 3")
    outcome = run("resume", db)
    assert outcome.error == "ValueError"
    assert "Inconsistent partition counts" in outcome.message


# --- Pickle --------------------------------------------------------------------------------------


class Restricted(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def test_bytes_from_snapshot_are_a_row_that_unpickles_without_any_class(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    run_well("resume", db, batches=[[("a", "x")]], as_bytes=True)
    row = next(row for row in rows_of(part_file(db, 0)) if row.step_id == STEP)
    assert row.change == pickle.dumps(b"x")
    assert Restricted(io.BytesIO(row.change)).load() == b"x"


def test_the_engine_unpickles_what_it_loads_before_it_calls_the_builder(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, resume_epoch=2, snaps={0: [snap("a", 1, b"raw")]})
    [call] = [call for call in run_well("resume", db) if call[0] == "load"]
    assert call[1:3] == ["bytes", "raw"]


# --- What stock recovery gets wrong --------------------------------------------------------------


def test_stock_recovery_loads_a_row_of_an_epoch_that_never_completed_after_a_second_crash(
    tmp_path: Path,
) -> None:
    """A row that nobody took back counts the item, then it is replayed: 2 where 1 is right."""
    db = make_db(tmp_path, 1, outbox=False)
    file = part_file(db, 0)

    with Engine("double_crash", db, emit=True, stuck=True) as engine:
        sql = "SELECT snap_epoch FROM snaps WHERE step_id = 'double_crash.sum'"
        assert wait_until(lambda: query(file, sql), "the sum is written") == [(1,)]
        assert query(file, "SELECT commit_epoch FROM commits") == []
        engine.kill()

    with Engine("double_crash", db, emit=False, stuck=False) as engine:
        sql = "SELECT 1 FROM commits WHERE commit_epoch > 1"
        wait_until(lambda: query(file, sql), "epoch 1 is committed without the item")
        engine.kill()

    with Engine("double_crash", db, emit=True, stuck=False) as engine:
        sql = "SELECT ser_change FROM snaps WHERE step_id = 'double_crash.sum' AND snap_epoch > 1"
        [(change,)] = wait_until(lambda: query(file, sql), "the item is counted")
        engine.kill()
    assert pickle.loads(change) == 2


def test_an_epoch_stays_open_until_the_next_awake_of_every_source(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1)
    with Engine("double_crash", db, emit=True, stuck=True):
        wait_until(lambda: len(rows_of(part_file(db, 0))) >= 2, "the other source has ended")
        with pytest.raises(AssertionError, match="still waiting"):
            wait_until(lambda: marks_of(part_file(db, 0)), "", 1)


def test_with_recovery_a_run_ends_when_its_stateful_streams_end(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, outbox=False)
    calls = run_well("stateless", db, count=50, pause_ms=3_600_000, beside="short stateful flow")
    assert len([call for call in calls if isinstance(call, int)]) < 50


def test_with_recovery_a_flow_without_state_ends_before_its_items(tmp_path: Path) -> None:
    db = make_db(tmp_path, 1, outbox=False)
    assert len(run_well("stateless", db, count=50, pause_ms=3_600_000)) < 50


def test_without_recovery_a_flow_without_state_puts_out_every_item() -> None:
    assert run_well("stateless", count=50, pause_ms=5) == list(range(50))


@pytest.mark.parametrize("workers", [None, 2])
def test_with_an_empty_stateful_side_branch_a_flow_without_state_puts_out_every_item(
    tmp_path: Path, workers: int | None
) -> None:
    db = make_db(tmp_path, 1)
    calls = run_well(
        "stateless", db, workers=workers, count=50, pause_ms=5, beside="empty side branch"
    )
    assert sorted(calls) == sorted([*range(50)] * (workers or 1))
    assert not rows_of(part_file(db, 0))
