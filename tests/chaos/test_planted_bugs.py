"""The harness can fail: with a bug of ``tests/crash/planted.py`` its runs are not right.

Each bug has a schedule that its rule is there for; the same schedule without the bug is right.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import pytest

from bytewax_redis_state.chaos.campaign import Campaign, CampaignReport
from bytewax_redis_state.chaos.faults import FAULTS
from bytewax_redis_state.chaos.schedule import make_schedule
from bytewax_redis_state.chaos.system import Program
from bytewax_redis_state.chaos.trial import Trial
from tests.crash.processes import RUNNER

pytestmark = [pytest.mark.long, pytest.mark.crash, pytest.mark.timeout(3600)]

REFUSED = (
    *("delete-cell", "delete-manifest", "delete-journal", "delete-progress"),
    *("alter-cell", "alter-manifest", "alter-journal", "alter-progress"),
    *("lose-kinds", "empty-node"),
)
"""Kinds after which a flow is mostly refused, and only named damage is right."""

SCHEDULES = [
    ("no-fence", "take-over", "1-worker", 5),
    ("progress-too-high", "kill-all", "2-processes", 4),
    ("rows-not-dropped", "kill-all", "2-processes", 4),
    ("folds-not-compared", "kill-all", "1-worker", 3),
    ("margin-ignored", "lost-tail", "1-worker", 4),
    ("margin-ignored", "sentinel-failover", "1-worker", 4),
    ("counts-unheeded", "delete-state", "1-worker", 1),
    ("sums-unheeded", "alter-state", "1-worker", 1),
    ("tuples-as-lists", "hostile-values", "1-worker", 3),
    ("stderr-insisted", "close-stderr", "1-worker", 4),
    ("progress-too-high", "remove-scratch", "2-processes", 4),
    ("progress-too-high", "limits", "2-processes", 4),
    ("margin-ignored", "node-back", "1-worker", 1),
    *[("errors-unnamed", kind, "1-worker", 1) for kind in REFUSED],
]
"""Bug, kind of fault, topology, and faults of one run."""
RUNS = 5

schedules = pytest.mark.parametrize(
    ("bug", "kind", "topology", "per_trial"),
    [pytest.param(*each, id=f"{each[0]}, {each[1]}") for each in SCHEDULES],
)


def struck(
    tmp_path, bug: str, kind: str, topology: str, per_trial: int, runs: int
) -> CampaignReport:
    """Run a schedule until it is not right; with a bug, or with none."""
    moments = [moment for moment in FAULTS[kind].moments if moment not in ("stream", "start")]
    kinds = {kind: replace(FAULTS[kind], moments=moments)}
    schedule = make_schedule(1, runs * per_trial, [topology], kinds, per_trial=per_trial)
    report = CampaignReport(schedule, "ours", {})
    program = Program((sys.executable, str(RUNNER)), {"CRASH_BUG": bug, "CRASH_AT_STEP": ""})

    def run_trial(plan, folder, given_up: threading.Event):
        return Trial(plan, folder, "planted", program, given_up=given_up).run()

    for plan in schedule.plans:
        Campaign(tmp_path, run_trial, jobs=1, seen=lambda outcome: None).run(report, plan.number)
        if report.bad:
            break
    return report


@schedules
def test_a_planted_bug_is_reported(tmp_path, bug, kind, topology, per_trial, record_property):
    report = struck(tmp_path, bug, kind, topology, per_trial, RUNS)
    assert not report.ok
    bad = report.bad[0]
    record_property("runs until it was seen", len(report.outcomes))
    print(
        bug, len(report.outcomes), [line[:200] for line in (*bad.wrong, *bad.findings, bad.stuck)]
    )
    assert bad.wrong or bad.findings or bad.stuck


@schedules
def test_the_same_schedule_without_the_bug_is_right(tmp_path, bug, kind, topology, per_trial):
    report = struck(tmp_path, "", kind, topology, per_trial, 1)
    assert report.ok, report.bad
