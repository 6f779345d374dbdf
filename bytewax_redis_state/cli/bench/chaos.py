"""``bytewax-redis-state bench chaos``: inject faults into a flow, and check its results.

Exit codes: 0 if every result is right, 1 if one is not, 2 if the command could not start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bytewax_redis_state.chaos.campaign import Campaign, CampaignReport, usable_faults
from bytewax_redis_state.chaos.faults import DEFAULT_FAULTS, FAULTS
from bytewax_redis_state.chaos.schedule import FAST_PATHS, TOPOLOGIES, Plan, make_schedule
from bytewax_redis_state.chaos.stock_trial import STOCK, StockTrial
from bytewax_redis_state.chaos.system import Program
from bytewax_redis_state.chaos.trial import BEGUN_AGAIN, Outcome, Trial
from bytewax_redis_state.errors import ConfigError

__all__ = ["add_command"]

_FAULTS, _MOST_FAULTS = 2 * len(DEFAULT_FAULTS), 10_000
_SEEDS = 1_000_000
_SHOWN_WRONG = 400


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    kinds = "; ".join(f"{name}: {fault.says}" for name, fault in FAULTS.items())
    made = commands.add_parser(
        "chaos",
        help="inject faults into a flow, and compare its results with the right ones",
        description="Run a flow whose right results are known, inject faults from a seeded "
        "schedule, let the flow end, and compare every state key and every line of output. It "
        "starts Redis servers for this, and touches no others. Linux only. The exit code is 0 "
        "only if all results are right.",
        epilog=f"Faults: {kinds}.",
    )
    made.add_argument(
        "--faults",
        type=int,
        default=_FAULTS,
        metavar="N",
        help=f"number of faults, of all runs together (default {_FAULTS})",
    )
    made.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="seed of the whole schedule; give the seed of a failed call to repeat it "
        "(default: random)",
    )
    made.add_argument(
        "--run", type=int, metavar="N", help="run only this run of the schedule, to repeat it"
    )
    made.add_argument(
        "--topology",
        action="append",
        choices=TOPOLOGIES,
        help="workers or processes of the flow; may be repeated (default: all)",
    )
    made.add_argument(
        "--fault",
        action="append",
        choices=FAULTS,
        metavar="KIND",
        help="inject only this kind of fault; may be repeated (default: all kinds but those "
        "that docs/faults.md has under 'Only when chosen')",
    )
    made.add_argument(
        "--fast-paths",
        action="append",
        choices=FAST_PATHS,
        help="whether operators run on fast paths; in-turn: each start switches; may be "
        "repeated (default: all three, run by run)",
    )
    made.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of runs at a time (default: one for every two CPUs)",
    )
    made.add_argument(
        "--rival",
        choices=("stock",),
        help="test Bytewax's own recovery instead, with the faults that apply to it; to compare, "
        "give the same --seed and --fault to both",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all observations here")
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the files of failed runs in this folder"
    )
    made.set_defaults(command=chaos)


def chaos(args: argparse.Namespace) -> int:
    """Run the command.

    :arg args: Its options.
    :returns: 0 or 1.
    :raises ConfigError: If it can't start.
    """
    _require_sense(args)
    report = _prepared(args)
    with ExitStack() as stack:
        folder = args.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bytewax-chaos-"))
        )
        shown = stack.enter_context(_CampaignConsole(report, args.run))
        namespace = f"chaos-{report.schedule.seed}"
        run_trial = partial(_run_trial, namespace=namespace, rival=report.rival)
        jobs = args.jobs or max(1, (os.cpu_count() or 2) // 2)
        Campaign(folder, run_trial, jobs=jobs, seen=shown.seen).run(report, args.run)
    if args.json:
        args.json.write_text(json.dumps(report.to_json(), indent=1))
    _render(report)
    return 0 if report.ok else 1


def _require_sense(args: argparse.Namespace) -> None:
    if sys.platform != "linux":
        raise ConfigError("bench chaos runs on Linux only", "run it in a Linux container")
    if not 1 <= args.faults <= _MOST_FAULTS:
        raise ConfigError(f"--faults is {args.faults}", f"give a number from 1 to {_MOST_FAULTS}")


def _prepared(args: argparse.Namespace) -> CampaignReport:
    usable, left_out = usable_faults(args.fault or (), stock=args.rival == "stock")
    if not usable:
        raise ConfigError(
            "no fault of the chosen kinds can be injected on this machine",
            "; ".join(left_out.values()),
        )
    seed = random.randrange(_SEEDS) if args.seed is None else args.seed
    # Stock recovery knows no fast paths.
    fast_paths = ("off",) if args.rival == "stock" else args.fast_paths or FAST_PATHS
    topologies = args.topology or list(TOPOLOGIES)
    try:
        schedule = make_schedule(seed, args.faults, topologies, usable, fast_paths=fast_paths)
    except ValueError:
        raise ConfigError(
            f"no fault of {', '.join(usable)} can strike a flow of {', '.join(topologies)}",
            "an embedded server has a flow of one process: add --topology 1-worker",
        ) from None
    if args.run is not None and not 0 <= args.run < len(schedule.plans):
        raise ConfigError(
            f"--run is {args.run}, and the schedule has {len(schedule.plans)} runs",
            "runs are counted from 0; give the same --seed, --faults, --fault, --topology and "
            "--fast-paths as in the call that you repeat",
        )
    return CampaignReport(schedule, args.rival or "ours", left_out)


def _run_trial(plan: Plan, folder: Path, given_up: Event, *, namespace: str, rival: str) -> Outcome:
    if rival == "stock":
        return StockTrial(plan, folder, namespace, STOCK, given_up=given_up).run()
    return Trial(plan, folder, namespace, Program(), given_up=given_up).run()


class _CampaignConsole:
    """Shows a person on standard error how the campaign proceeds."""

    def __init__(self, report: CampaignReport, only: int | None) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._report = report
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("faults,"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        schedule = report.schedule
        total = schedule.faults if only is None else len(schedule.plans[only].strikes)
        self._task = self._bar.add_task("injecting", total=total)

    def __enter__(self) -> _CampaignConsole:
        schedule = self._report.schedule
        self._line(
            f"chaos: seed {schedule.seed}, {schedule.faults} faults in {len(schedule.plans)} runs"
        )
        for kind, why in self._report.left_out.items():
            self._line(f"left out: {kind}: {why}", "yellow")
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def seen(self, outcome: Outcome) -> None:
        """Show the result of a run."""
        self._bar.advance(self._task, len(outcome.plan.strikes))
        plan = outcome.plan
        kinds = ", ".join(fault.kind for fault in plan.strikes)
        verdict = "right" if outcome.ok else "NOT RIGHT"
        if outcome.ok and outcome.refusals:
            verdict = "refused and named, then right"
        self._line(
            f"run {plan.number}, {plan.topology}, fast paths {plan.fast_paths}: {kinds}: "
            f"{verdict}, {outcome.compared:,} values compared, {outcome.seconds:.0f} s",
            "" if outcome.ok else "red",
        )


def _render(report: CampaignReport) -> None:
    console = Console(highlight=False)
    rows = report.table()
    topologies = [t for t in TOPOLOGIES if any(t in row for row in rows.values())]
    title = f"{report.rival}, seed {report.schedule.seed}: faults (runs, runs that were not right)"
    table = Table(box=box.SIMPLE_HEAD, title=title)
    table.add_column("fault")
    for topology in topologies:
        table.add_column(topology, justify="right")
    for kind, row in rows.items():
        cells = [row.get(topology) for topology in topologies]
        shown = [f"{c.faults} ({c.runs}, {c.bad})" if c else "" for c in cells]
        bad = any(cell and cell.bad for cell in cells)
        table.add_row(kind, *shown, style="red" if bad else "")
    console.print(table)
    _render_totals(console, report)
    _render_damage(console, report)
    for outcome in report.bad:
        _render_bad(console, report, outcome)


def _render_totals(console: Console, report: CampaignReport) -> None:
    totals, recovery = report.totals(), report.recovery()
    console.print(
        f"{totals['faults']} faults in {totals['runs']} runs, {report.seconds:.0f} s: "
        f"{totals['wrong_answers']} wrong answers, {totals['findings']} with findings, "
        f"{totals['stuck']} stuck; {totals['values_compared']:,} values compared",
        soft_wrap=True,
    )
    console.print(
        f"struck while rows were unshipped {totals['unshipped']}, in mid-fold "
        f"{totals['mid_fold']}, in mid-start {totals['mid_start']}"
        + (
            f"; committed again after {recovery['median']:.1f} s in the median, "
            f"{recovery['most']:.1f} s at most"
            if recovery
            else ""
        ),
        soft_wrap=True,
    )


def _render_damage(console: Console, report: CampaignReport) -> None:
    totals = report.totals()
    if totals["damages"]:
        said = f"records were damaged {totals['damages']} times, and the flow was then refused "
        way_out = f"{totals['refused']} times: the harness {BEGUN_AGAIN}"
        console.print(said + (way_out if totals["refused"] else "0 times"), soft_wrap=True)


def _render_bad(console: Console, report: CampaignReport, outcome: Outcome) -> None:
    plan = outcome.plan
    console.print(
        f"run {plan.number} ({plan.topology}) was not right; replay it with the same options and "
        f"--seed {report.schedule.seed} --run {plan.number}",
        style="red",
        soft_wrap=True,
    )
    damages = [each.done for each in outcome.struck if each.done]
    for line in (*damages, *outcome.wrong, *outcome.findings, outcome.stuck):
        if line:
            console.print(f"  {line[:_SHOWN_WRONG]}", markup=False, soft_wrap=True)
