"""The page says what the file of results says, and nothing else; the plots can be drawn."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.plots import curves, render
from benchmarks.results import ContestResult, Figure, Results, Run
from benchmarks.rows import rows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "docs" / "benchmarks" / "results.json"


def line(job, name, values, figures=(), points=None, **changed):
    runs = {rival: [Run(value) for value in measured] for rival, measured in values.items()}
    given = {
        "job": job, "name": name, "title": f"{name}, a title", "unit": "s", "runs": runs,
        "figures": list(figures), "points": points or {rival: {} for rival in values},
        "notes": [], "scale": 1.0, "started": "2026-01-02T03:04:05+00:00", "load": 0.4,
    }  # fmt: skip
    return ContestResult(**{**given, **changed})


@pytest.fixture
def results():
    machine = {
        "cpu": "a processor", "cores": 2, "memory_gib": 24, "system": "Linux x86_64",
        "python": "3.11.7", "server": "Redis 7.0.15", "versions": {"bytewax": "0.21.1"},
    }  # fmt: skip
    ratio = Figure("ours", "× stock recovery", 4.0, 2.5)
    sums = line(
        "a", "sums", {"stock recovery": [12.0, 14.0, 13.0], "ours": [3.0, 3.2]}, [ratio],
        {"stock recovery": {"events": 1000}, "ours": {"events": 1000}}, notes=["one is slow"],
    )  # fmt: skip
    restart = line(
        "g", "restart", {"ours, 1k keys": [1.0], "ours, 2k keys": [3.0]}, (),
        {
            "ours, 1k keys": {"series": "ours", "keys": 1000},
            "ours, 2k keys": {"series": "ours", "keys": 2000},
        },
    )  # fmt: skip
    return Results(machine, [{"started": "2026-01-02T03:04:05+00:00"}], [sums, restart])


def test_the_page_has_machine_rows_targets_and_notes(results):
    text = page.generated(results, "benchmarks")
    assert "a processor, 2 cores, 24 GiB, Linux x86_64; Python 3.11.7; Redis 7.0.15" in text
    assert "Measured on 2026-01-02" in text
    assert "| stock recovery | 13.0 s | 12.0–14.0 | 3 |  |" in text
    assert "| ours | 3.10 s | 3.00–3.20 | 2 | 4.00× stock recovery (≥ 2.50 ✓) |" in text
    assert "- one is slow" in text
    assert "![Restart time](benchmarks/restart.svg)" in text
    assert "epoch-close" not in text  # nothing was measured for it


def test_figures_are_put_between_the_markers_and_take_the_place_of_the_old_ones():
    old = f"before\n\n{page.BEGIN}\n\nold\n\n{page.END}\n\nafter\n"
    new = page.written(old, "new")
    assert new == old.replace("old", "new")
    assert page.written(new, "new") == new
    with pytest.raises(ValueError, match="has no"):
        page.written("no markers", "new")


def test_the_page_of_a_smaller_run_says_so_and_judges_nothing(results):
    small = line(
        "a", "sums", {"ours": [1.0]}, [Figure("ours", "× stock recovery", 1.0, 2.5)], scale=0.02
    )
    text = page.generated(Results(results.machine, results.invocations, [small]), "benchmarks")
    assert "at 2.00% of that size" in text
    assert "✗" not in text
    assert not any(row.missed for row in rows(small))


def test_a_curve_is_the_median_by_keys_over_all_lines_of_its_job(results):
    again = line(
        "g", "again", {"ours, 2k keys": [5.0]}, (),
        {"ours, 2k keys": {"series": "ours", "keys": 2000}},
    )  # fmt: skip
    results.put(again)
    assert curves(results, "g") == {"ours": {1000: 1.0, 2000: 4.0}}


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs the extra bench")
def test_plots_are_drawn_for_what_was_measured(results, tmp_path):
    made = render(results, tmp_path)
    assert {path.name for path in made} == {
        "restart.svg", "restart.png", "throughput.svg", "throughput.png",
    }  # fmt: skip
    assert "bytewax-redis-state" in (tmp_path / "restart.svg").read_text()
    first = (tmp_path / "restart.svg").read_bytes()
    render(results, tmp_path)
    assert (tmp_path / "restart.svg").read_bytes() == first


@pytest.mark.skipif(not RESULTS.exists(), reason="no results are committed")
def test_the_page_agrees_with_the_results_beside_it():
    text = PAGE.read_text()
    assert text == page.written(text, page.generated(Results.read(RESULTS), "benchmarks"))
    for image in re.findall(r"!\[[^\]]*\]\((benchmarks/[^)]+)\)", text):
        assert (PAGE.parent / image).is_file()
        assert (PAGE.parent / image).with_suffix(".png").is_file()
