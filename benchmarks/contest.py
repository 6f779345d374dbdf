"""A contest: rivals do the same work in turn, and figures are made of their runs.

Invariant: a run that hangs never holds up the other rivals. A run that takes longer than its bound
is ended and noted, and its rival does not run again in this contest.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from benchmarks.results import ContestResult, Figure, Run

BOUND_SECONDS = 300.0
PAIRS = 5


class TooSlowError(Exception):
    """A run took longer than its bound, and was ended."""


class FailedRunError(Exception):
    """A run ended with an error of its own."""


@dataclass(frozen=True)
class Contender:
    """A rival in a contest.

    :arg name: For people, and unique in the contest.
    :arg run: Does the work once and gives the measured run.
    :arg point: Properties for a plot, such as ``series``, ``keys`` and ``events``.
    """

    name: str
    run: Callable[[], Run]
    point: Mapping[str, Any] = field(default_factory=dict)


FigureMaker = Callable[[Mapping[str, Sequence[Run]]], Figure]
"""Makes a figure of the runs of all rivals."""


@dataclass(frozen=True)
class Contest:
    """Rivals, their work, and the figures to make of their runs.

    :arg job: Letter of the job.
    :arg name: Unique within the job.
    :arg title: The work, for people.
    :arg contenders: Prepares the rivals and gives them; they are there for as long as the block.
    :arg plan: Each rival's name to the estimated seconds of a run, on two cores at full size, and
        to its number of runs by default; slow rivals run less often.
    :arg figures: Makers of the figures.
    :arg prepare_seconds: Estimated length of the preparation.
    :arg unit: Of the runs' values.
    :arg notes: For the reader of the figures.
    :arg scale: Share of the full size.
    """

    job: str
    name: str
    title: str
    contenders: Callable[[], AbstractContextManager[Sequence[Contender]]]
    plan: Mapping[str, tuple[float, int]]
    figures: Sequence[FigureMaker] = ()
    prepare_seconds: float = 5.0
    unit: str = "s"
    notes: Sequence[str] = ()
    scale: float = 1.0

    def estimate(self, pairs: int | None) -> float:
        """Estimate its seconds."""
        runs = sum((seconds + 1.0 / self.scale) * (pairs or n) for seconds, n in self.plan.values())
        return (runs + self.prepare_seconds) * self.scale


class ContestListener(Protocol):
    """Hears of the progress of a contest."""

    def begun(self, contest: Contest, turns: int) -> None:
        """A contest is about to be prepared."""

    def turn(self, contender: str, number: int, of: int) -> None:
        """A run begins."""

    def ran(self, contender: str, run: Run) -> None:
        """A run has ended."""


def hold(contest: Contest, pairs: int | None, listener: ContestListener) -> ContestResult:
    """Let the rivals run in turn.

    :arg pairs: Runs of each rival; ``None`` for its default.
    :returns: All runs, and the figures made of them.
    """
    load, started = os.getloadavg()[0], datetime.now(timezone.utc)
    counts = {name: pairs or runs for name, (_, runs) in contest.plan.items()}
    listener.begun(contest, sum(counts.values()))
    runs: dict[str, list[Run]] = {name: [] for name in counts}
    notes = list(contest.notes)
    with contest.contenders() as contenders:
        for number, contender in _turns(contenders, counts):
            done = runs[contender.name]
            if done and done[-1].value is None:
                continue
            listener.turn(contender.name, number + 1, counts[contender.name])
            run = _run(contender, notes)
            done.append(run)
            listener.ran(contender.name, run)
        points = {contender.name: dict(contender.point) for contender in contenders}
    return ContestResult(
        contest.job, contest.name, contest.title, contest.unit, runs,
        [make(runs) for make in contest.figures], points, notes, contest.scale,
        started.isoformat(timespec="seconds"), round(load, 2),
    )  # fmt: skip


def _turns(
    contenders: Sequence[Contender], counts: Mapping[str, int]
) -> Iterator[tuple[int, Contender]]:
    for number in range(max(counts.values())):
        for contender in contenders:
            if number < counts[contender.name]:
                yield number, contender


def _run(contender: Contender, notes: list[str]) -> Run:
    try:
        return contender.run()
    except TooSlowError as error:
        notes.append(f"{contender.name} was given up: {error}")
        return Run(None)


# -- figures -----------------------------------------------------------------------------------


def _of_pairs(
    runs: Mapping[str, Sequence[Run]], over: str, under: str
) -> tuple[float | None, list[float]]:
    """Divide the values of each round.

    :returns: The median of the ratios, and all of them.
    """
    values = ((a.value, b.value) for a, b in zip(runs[over], runs[under], strict=False))
    ratios = [a / b for a, b in values if a is not None and b]
    return (statistics.median(ratios) if ratios else None), ratios


def times_as_fast(of: str, against: str, at_least: float | None = None) -> FigureMaker:
    """Seconds of a rival to seconds of ours: the median of the rounds' ratios."""

    def make(runs: Mapping[str, Sequence[Run]]) -> Figure:
        return Figure(of, f"× {against}", _of_pairs(runs, against, of)[0], at_least)

    return make


def share(of: str, against: str, at_least: float | None = None) -> FigureMaker:
    """A rate of ours to the rate of a rival: the median of the rounds' ratios."""

    def make(runs: Mapping[str, Sequence[Run]]) -> Figure:
        return Figure(of, f"× {against}", _of_pairs(runs, of, against)[0], at_least)

    return make


def growth(of: str, against: str, at_most: float | None = None) -> FigureMaker:
    """One rival's value to another's: the median of the rounds' ratios."""

    def make(runs: Mapping[str, Sequence[Run]]) -> Figure:
        value = _of_pairs(runs, of, against)[0]
        return Figure(of, f"× {against}", value, at_most, at_most=True)

    return make


def median_of(
    of: str, text: str, *, at_least: float | None = None, at_most: float | None = None
) -> FigureMaker:
    """The median itself, against a floor or a ceiling."""

    def make(runs: Mapping[str, Sequence[Run]]) -> Figure:
        values = [run.value for run in runs[of] if run.value is not None]
        value = statistics.median(values) if values else None
        target = at_most if at_least is None else at_least
        return Figure(of, text, value, target, at_most=at_most is not None)

    return make
