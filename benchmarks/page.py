"""The figures of the page, written between its markers: ``python -m benchmarks.page JSON PAGE``.

Invariant: the text between the markers is made of the file of results and of nothing else, so that
the page can't claim an unmeasured figure. A test compares it with :func:`generated`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from benchmarks.jobs import JOBS
from benchmarks.plots import PLOTS
from benchmarks.results import ContestResult, Results
from benchmarks.rows import HEAD, rows, title_of

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def generated(results: Results, images: str) -> str:
    """Write the generated part.

    :arg images: Folder of the plots, as the page names it.
    """
    parts = [*_machine(results), *_plots(results, images)]
    for job, lines in groupby(results.lines, key=lambda line: line.job):
        parts.append(f"## ({job}) {JOBS.get(job, job)}")
        for line in lines:
            parts.extend(_line(line))
    return "\n\n".join(parts)


def _machine(results: Results) -> Iterator[str]:
    machine = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    days = sorted({str(made["started"])[:10] for made in results.invocations})
    loads = [line.load for line in results.lines]
    yield (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; Python {machine['python']}; {machine['server']}; {versions}. "
        f"Measured on {' and '.join(days)}, the machine's load before each line "
        f"{min(loads, default=0):.1f} to {max(loads, default=0):.1f}."
    )


def _plots(results: Results, images: str) -> Iterator[str]:
    for name, plot in PLOTS.items():
        if plot.has_data(results):
            yield f"![{plot.title}]({images}/{name}.svg)"


def _line(line: ContestResult) -> Iterator[str]:
    yield f"**{title_of(line).partition(') ')[2]}**"
    head = [f"| {' | '.join(HEAD)} |", f"| {' | '.join('---' for _ in HEAD)} |"]
    cells = (row.cells for row in rows(line))
    yield "\n".join([*head, *(f"| {' | '.join(row)} |" for row in cells)])
    if line.notes:
        yield "\n".join(f"- {note}" for note in line.notes)


def written(page: str, figures: str) -> str:
    """Put figures between a page's markers.

    :raises ValueError: If the page has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of `bench jobs`")
    parser.add_argument("page", type=Path, help="Markdown with the markers")
    args = parser.parse_args()
    figures = generated(Results.read(args.results), args.results.parent.name)
    args.page.write_text(written(args.page.read_text(), figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
