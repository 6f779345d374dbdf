"""One call of the benchmark: an estimate, the contests in turn, a table each, and a file."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.contest import Contest, FailedRunError, hold
from benchmarks.flows import WrongResultError
from benchmarks.jobs import JOBS, Extent
from benchmarks.machine import describe
from benchmarks.results import ContestResult, Results, Run
from benchmarks.rows import HEAD, number, rows, title_of
from bytewax_redis_state.errors import StateError


class ProgressDisplay:
    """Tells a person how it goes: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("")
        self._unit = ""

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begun(self, contest: Contest, turns: int) -> None:
        self._unit = contest.unit
        self._bar.reset(self._task, total=turns, description=f"({contest.job}) preparing")
        self.console.print(f"({contest.job}) {contest.title}", style="bold", markup=False)

    def turn(self, contender: str, number: int, of: int) -> None:
        self._bar.update(self._task, description=f"{contender}, run {number} of {of}")

    def ran(self, contender: str, run: Run) -> None:
        self._bar.advance(self._task)
        if not self.console.is_terminal:
            value = "given up" if run.value is None else f"{number(run.value)} {self._unit}"
            self.console.print(f"  {contender}: {value}", markup=False)

    def failed(self, error: Exception) -> None:
        """Say that a line is left out."""
        self.console.print(f"no figures: {error}", style="bold red", markup=False)


def table(line: ContestResult) -> Table:
    """Render a line."""
    made = Table(*HEAD, title=escape(title_of(line)), title_justify="left")
    for row in rows(line):
        made.add_row(*map(escape, row.cells), style="red" if row.missed else "")
    return made


def print_estimate(console: Console, contests: list[Contest], pairs: int | None) -> None:
    """Say how long it will take, job by job."""
    total = 0.0
    for job, of_job in groupby(contests, key=lambda contest: contest.job):
        seconds = sum(contest.estimate(pairs) for contest in of_job)
        total += seconds
        console.print(f"({job}) about {minutes(seconds):>9}  {JOBS[job]}", markup=False)
    console.print(f"in all about {minutes(total)}, on two idle cores; load now: {_load()}")


def minutes(seconds: float) -> str:
    """Say a duration."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _load() -> str:
    return ", ".join(f"{load:.2f}" for load in os.getloadavg())


def run(extent: Extent, *, json: Path | None = None, into: Path | None = None) -> int:
    """Hold the contests.

    :arg json: File to write, anew.
    :arg into: File to merge the lines into.
    :returns: 0, or 1 if a run failed or gave a wrong result: then its line is left out.
    """
    results = Results.read(into) if into and into.exists() else Results()
    path = into or json
    results.machine = describe()
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results.invocations.append({"started": started, "load": os.getloadavg(), **asdict(extent)})
    contests, out = extent.contests(), Console(width=max(Console().width, 110))
    with ProgressDisplay() as display:
        print_estimate(display.console, contests, extent.pairs)
        wrong = 0
        for contest in contests:
            try:
                line = hold(contest, extent.pairs, display)
            except (FailedRunError, WrongResultError, StateError) as error:
                display.failed(error)
                wrong += 1
                continue
            results.put(line)
            if path:
                results.write(path)
            out.print(table(line))
            for note in line.notes:
                out.print(note, style="dim", markup=False)
    return 1 if wrong else 0
