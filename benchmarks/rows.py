"""The result of a contest as rows of a table, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import ContestResult, Figure

HEAD = ("rival", "median", "spread", "n", "ratios and targets")


@dataclass(frozen=True)
class Row:
    """A contender.

    :arg name: Of the contender.
    :arg median: With its unit.
    :arg spread: Least to most.
    :arg count: Of the runs.
    :arg figures: Text of each, with its target and a mark.
    :arg missed: Whether a target is missed.
    """

    name: str
    median: str
    spread: str
    count: str
    figures: str
    missed: bool

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """All of it, in the order of ``HEAD``."""
        return self.name, self.median, self.spread, self.count, self.figures


def rows(line: ContestResult) -> Iterator[Row]:
    """Give a row for each contender."""
    for name, runs in line.runs.items():
        values, figures = line.values(name), [f for f in line.figures if f.of == name]
        median = line.median(name)
        yield Row(
            name,
            "given up" if median is None else f"{number(median)} {line.unit}",
            f"{number(min(values))}–{number(max(values))}" if len(values) > 1 else "",
            str(len(runs)),
            "; ".join(text_of(figure, judged=line.scale == 1) for figure in figures),
            line.scale == 1 and any(figure.met is False for figure in figures),
        )


def title_of(line: ContestResult) -> str:
    """Give the title of a result, with its share of the full size."""
    smaller = "" if line.scale == 1 else f" — at {line.scale:.2%} of that size"
    return f"({line.job}) {line.title}{smaller}"


def text_of(figure: Figure, *, judged: bool = True) -> str:
    """Write a figure with its target and a mark.

    :arg judged: Whether to judge the target, which is for the full size.
    """
    value = "–" if figure.value is None else number(figure.value)
    gap = "" if figure.text.startswith("×") else " "
    text = f"{value}{gap}{figure.text}"
    if figure.target is None:
        return text
    sign = "≤" if figure.at_most else "≥"
    mark = {True: "✓", False: "✗", None: "?"}[figure.met] if judged else "at full size"
    return f"{text} ({sign} {number(figure.target)} {mark})"


def number(value: float) -> str:
    """Write a number with about three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 0.1 or value == 0:
        return f"{value:.2f}"
    return f"{value:.2g}"
