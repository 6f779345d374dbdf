"""Estimates of a resume agree with what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.plots import curves
from benchmarks.results import Results
from bytewax_redis_state.stock.inert_pickle import LARGEST_IDLE_WINDOW
from bytewax_redis_state.stock.inventory import PartitionCounts
from bytewax_redis_state.stock.resume_estimate import (
    REDIS_SECONDS,
    REDIS_SECONDS_PER_KEY,
    ROWS_PER_PAGE,
    STOCK_SECONDS_PER_ROW_AND_PAGE,
    redis_resume_seconds,
    stock_resume_seconds,
)

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "benchmarks" / "results.json"


@pytest.mark.parametrize(("keys", "seconds"), [(100_000, 7.5), (200_000, 28), (400_000, 124)])
def test_the_estimate_for_stock_is_what_was_measured(keys, seconds):
    part = PartitionCounts("part-0.sqlite3", keys, keys)
    assert stock_resume_seconds([part], 1) == pytest.approx(seconds, rel=0.1)


def test_partitions_are_read_side_by_side_as_far_as_there_are_workers():
    part = PartitionCounts("part", 100_000, 100_000)
    one = stock_resume_seconds([part], 4)
    assert stock_resume_seconds([part] * 4, 1) == pytest.approx(4 * one)
    assert stock_resume_seconds([part] * 4, 2) == pytest.approx(2 * one)
    assert stock_resume_seconds([part] * 4, 8) == pytest.approx(one)
    assert stock_resume_seconds([], 1) == 0


def test_the_estimate_for_ours_is_what_the_benchmarks_say():
    points = curves(Results.read(RESULTS), "g")["ours"]
    for keys in (100_000, 1_000_000):
        assert redis_resume_seconds(keys) == pytest.approx(points[keys], rel=0.2)


def test_the_document_has_the_figures_of_the_code():
    text = " ".join((DOCS / "doctor.md").read_text().split())
    assert f"takes {REDIS_SECONDS:g} s and {REDIS_SECONDS_PER_KEY * 1e6:g} µs for each key" in text
    assert f"in pages of {ROWS_PER_PAGE:,} keys" in text
    assert f"keys / {ROWS_PER_PAGE:,} × rows × {STOCK_SECONDS_PER_ROW_AND_PAGE * 1e6:g} µs" in text
    assert f"rows of more than {LARGEST_IDLE_WINDOW // 1024} KiB" in text
