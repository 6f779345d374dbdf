"""A campaign: all trials of a schedule, some at a time, and its report as plain data."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bytewax_redis_state.chaos.faults import DEFAULT_FAULTS, FAULTS, Fault
from bytewax_redis_state.chaos.schedule import Plan, Schedule
from bytewax_redis_state.chaos.trial import Outcome

__all__ = ["Campaign", "CampaignReport", "FaultSummary", "usable_faults"]

RunTrial = Callable[[Plan, Path, threading.Event], Outcome]
"""Runs a plan in a folder of its own, until the event says to give up."""


def usable_faults(
    wanted: Sequence[str], *, stock: bool = False
) -> tuple[dict[str, Fault], dict[str, str]]:
    """Choose the kinds of faults that can be injected on this machine.

    :arg wanted: Names; none means all that strike by default.
    :arg stock: Whether stock recovery is struck.
    :returns: The kinds that can be injected, and for each other one the reason.
    """
    usable, left_out = {}, {}
    for name in wanted or DEFAULT_FAULTS:
        fault = FAULTS[name]
        missing = fault.missing(name)
        if stock and not fault.stock:
            left_out[name] = "stock recovery has neither Redis nor a replicator"
        elif missing:
            left_out[name] = missing
        else:
            usable[name] = fault
    return usable, left_out


@dataclass
class FaultSummary:
    """The counts of one kind of fault on one topology.

    :arg runs: Trials that had it.
    :arg faults: How often it struck.
    :arg bad: Trials that had it and were not right, perhaps because of another fault.
    """

    runs: int = 0
    faults: int = 0
    bad: int = 0


@dataclass
class CampaignReport:
    """The outcomes of a campaign.

    :arg rival: The recovery that was struck: ``ours`` or ``stock``.
    :arg left_out: Kinds of faults that could not be injected, and why.
    """

    schedule: Schedule
    rival: str
    left_out: Mapping[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every trial was right."""
        return all(outcome.ok for outcome in self.outcomes)

    @property
    def bad(self) -> list[Outcome]:
        """The outcomes that were not right."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def totals(self) -> dict[str, int]:
        """Count the faults and the outcomes that were not right."""
        struck = [each for outcome in self.outcomes for each in outcome.struck]
        return {
            "runs": len(self.outcomes),
            "faults": len(struck),
            "unshipped": sum(each.backlog > 0 for each in struck),
            "mid_fold": sum(each.mid_fold for each in struck),
            "mid_start": sum(each.mid_start for each in struck),
            "damages": sum(bool(each.done) for each in struck),
            "refused": sum(len(outcome.refusals) for outcome in self.outcomes),
            "values_compared": sum(outcome.compared for outcome in self.outcomes),
            "wrong_answers": sum(bool(outcome.wrong) for outcome in self.outcomes),
            "findings": sum(bool(outcome.findings) for outcome in self.outcomes),
            "stuck": sum(bool(outcome.stuck) for outcome in self.outcomes),
        }

    def recovery(self) -> dict[str, float]:
        """Give the seconds from a fault until the flow committed again: median and most."""
        found = [
            each.recovery
            for outcome in self.outcomes
            for each in outcome.struck
            if each.recovery is not None
        ]
        return {"median": median(found), "most": max(found)} if found else {}

    def table(self) -> dict[str, dict[str, FaultSummary]]:
        """Give the counts, by kind of fault and topology."""
        cells: dict[str, dict[str, FaultSummary]] = {}
        for outcome in self.outcomes:
            kinds = [each.kind for each in outcome.struck]
            for kind in sorted(set(kinds)):
                cell = cells.setdefault(kind, {}).setdefault(outcome.plan.topology, FaultSummary())
                cell.runs += 1
                cell.faults += kinds.count(kind)
                cell.bad += not outcome.ok
        return dict(sorted(cells.items()))

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain data."""
        return {
            "seed": self.schedule.seed,
            "rival": self.rival,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "totals": self.totals(),
            "recovery_seconds": self.recovery(),
            "left_out": dict(self.left_out),
            "table": {
                kind: {topology: asdict(cell) for topology, cell in row.items()}
                for kind, row in self.table().items()
            },
            "runs": [
                {**asdict(outcome), "ok": outcome.ok}
                for outcome in sorted(self.outcomes, key=lambda outcome: outcome.plan.number)
            ],
        }


class Campaign:
    """Runs the trials of a schedule.

    :arg folder: For the files of trials; those of a trial that was not right are kept.
    :arg run_trial: Runs one.
    :arg jobs: Trials at a time.
    :arg seen: Gets each outcome as soon as it is there.
    """

    def __init__(
        self, folder: Path, run_trial: RunTrial, *, jobs: int, seen: Callable[[Outcome], None]
    ) -> None:
        self._folder = folder
        self._run_trial = run_trial
        self._jobs = jobs
        self._seen = seen
        self.given_up = threading.Event()

    def run(self, report: CampaignReport, only: int | None = None) -> None:
        """Run the schedule of a report, and add the outcomes to the report.

        :arg only: Number of the only trial to run; ``None`` for all.
        """
        began = time.monotonic()
        plans = [p for p in report.schedule.plans if only is None or p.number == only]
        with ThreadPoolExecutor(self._jobs) as pool:
            running = [pool.submit(self._run, plan) for plan in plans]
            try:
                for done in as_completed(running):
                    report.outcomes.append(done.result())
                    report.seconds = time.monotonic() - began
                    self._seen(report.outcomes[-1])
            finally:
                self.given_up.set()  # trials that are still running end at once
                pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, plan: Plan) -> Outcome:
        folder = self._folder / f"run-{plan.number}"
        outcome = self._run_trial(plan, folder, self.given_up)
        if outcome.ok:
            shutil.rmtree(folder, ignore_errors=True)
        return outcome
