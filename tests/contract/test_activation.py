"""In which order the engine calls a step's logic, and when it snapshots."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from .engine import make_db, part_file, rows_of, run_well


def script(db_dir: Path, *batches: list[list[str]], linger_ms: int = 0) -> list[Any]:
    """Run a flow that gets one batch of (key, wish) per epoch; hand back the calls."""
    return run_well("script", make_db(db_dir, 1), epoch_ms=10, batches=batches, linger_ms=linger_ms)


def calls_of(calls: list[Any], *names: str) -> list[Any]:
    return [call for call in calls if call[0] in names]


def first(calls: list[Any], call: list[str]) -> int:
    return calls.index(call)


def test_on_batch_comes_once_per_key_with_all_its_values_in_the_order_of_keys(
    tmp_path: Path,
) -> None:
    calls = script(tmp_path, [["b", "1"], ["a", "1"], ["b", "2"]])
    assert calls_of(calls, "on_batch") == [["on_batch", "a1"], ["on_batch", "b1", "b2"]]


def test_notify_at_comes_for_the_awoken_keys_after_all_on_batch(tmp_path: Path) -> None:
    calls = script(tmp_path, [["b", "1"], ["a", "1"]], [["b", "2"]])
    first_epoch, later = calls[: first(calls, ["on_batch", "b2"])], calls
    assert calls_of(first_epoch, "on_batch", "notify_at") == [
        ["on_batch", "a1"],
        ["on_batch", "b1"],
        ["notify_at", "a"],
        ["notify_at", "b"],
    ]
    after = later[first(later, ["on_batch", "b2"]) : first(later, ["on_eof", "a"])]
    assert calls_of(after, "notify_at") == [["notify_at", "b"]]


def test_a_due_on_notify_comes_after_on_batch_of_the_same_activation(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "now"]], linger_ms=100)
    assert [call[0] for call in calls_of(calls, "on_batch", "on_notify", "notify_at")][:4] == [
        "on_batch",
        "notify_at",
        "on_notify",
        "notify_at",
    ]


def test_on_eof_comes_for_every_key_and_before_its_last_notify_at(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "1"], ["b", "1"]])
    ends = calls[first(calls, ["on_eof", "a"]) :]
    assert calls_of(ends, "on_eof", "notify_at", "snapshot") == [
        ["on_eof", "a"],
        ["on_eof", "b"],
        ["notify_at", "a"],
        ["notify_at", "b"],
        ["snapshot", "a"],
        ["snapshot", "b"],
    ]


def test_snapshot_comes_once_per_awoken_key_before_any_item_of_the_next_epoch(
    tmp_path: Path,
) -> None:
    calls = script(tmp_path, [["a", "1"], ["b", "1"]], [["a", "2"]], [["b", "3"]])
    assert calls_of(calls[: first(calls, ["on_eof", "a"])], "on_batch", "snapshot") == [
        ["on_batch", "a1"],
        ["on_batch", "b1"],
        ["snapshot", "a"],
        ["snapshot", "b"],
        ["on_batch", "a2"],
        ["snapshot", "a"],
        ["on_batch", "b3"],
        ["snapshot", "b"],
    ]


def test_a_key_awoken_by_a_notification_only_is_snapshotted(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "later"]], linger_ms=1500)
    after = calls[first(calls, ["on_notify", "a"]) :]
    assert calls_of(after, "snapshot", "on_eof")[0] == ["snapshot", "a"]


def test_a_key_that_nothing_awoke_is_not_snapshotted(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "1"]], [["b", "1"]], [["b", "2"]])
    before_eof = calls[: first(calls, ["on_eof", "a"])]
    assert calls_of(before_eof, "snapshot").count(["snapshot", "a"]) == 1


def test_a_complete_logic_is_dropped_without_snapshot_and_built_anew_for_the_next_item(
    tmp_path: Path,
) -> None:
    calls = script(tmp_path, [["a", "1"]], [["a", "complete"]], [["a", "3"]])
    assert calls_of(calls, "build") == [["build", None], ["build", None]]
    dropped = first(calls, ["on_batch", "acomplete"])
    assert calls[dropped + 1] != ["notify_at", "a"]
    changes = [row.change for row in rows_of(part_file(tmp_path, 0)) if row.state_key == "a"]
    assert changes[:3] == [pickle.dumps("1"), None, pickle.dumps("3")]


def test_a_logic_complete_on_eof_leaves_a_null_row(tmp_path: Path) -> None:
    script(tmp_path, [["a", "end"]])
    changes = [row.change for row in rows_of(part_file(tmp_path, 0)) if row.state_key == "a"]
    assert changes[-1] is None


def test_notify_at_that_returns_none_does_not_clear_an_earlier_schedule(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "later"]], [["a", "forget"]], linger_ms=1500)
    assert first(calls, ["on_batch", "aforget"]) < first(calls, ["on_notify", "a"])
    assert calls_of(calls, "on_notify") == [["on_notify", "a"]]


def test_complete_clears_the_schedule(tmp_path: Path) -> None:
    calls = script(tmp_path, [["a", "later"]], [["a", "complete"]], linger_ms=1500)
    assert calls_of(calls, "on_notify") == []
