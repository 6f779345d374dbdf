"""Plots of the results, as SVG and PNG: ``python -m benchmarks.plots JSON FOLDER``.

Needs the extra ``bench``. A rival has the same colour and mark in every plot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import ContestResult, Results

# Colours that people with any colour vision tell apart (Okabe and Ito's), and marks.
_STYLES = {
    "no recovery": ("#7f7f7f", "s"),
    "stock recovery": ("#d55e00", "^"),
    "stock recovery, 64 partitions": ("#e69f00", "v"),
    "ours, no fast paths": ("#56b4e9", "D"),
    "ours": ("#0072b2", "o"),
}
_LABELS = {
    "no recovery": "Bytewax without recovery",
    "stock recovery": "Bytewax, its own recovery",
    "stock recovery, 64 partitions": "Bytewax, its own recovery, 64 partitions",
    "ours, no fast paths": "bytewax-redis-state, fast paths off",
    "ours": "bytewax-redis-state",
}
_THROUGHPUT_JOBS = "abcdefl"
_SETTINGS = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "svg.hashsalt": "bytewax-redis-state",  # the same figures give the same file
    "svg.fonttype": "none",
}
Curves = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Plot:
    """A plot.

    :arg title: Above it.
    :arg has_data: Whether the results hold what it shows.
    :arg draw: Draws it on a figure.
    """

    title: str
    has_data: Callable[[Results], bool]
    draw: Callable[[Results, Any, str], None]


def curves(results: Results, job: str) -> Curves:
    """Give each series of a job as medians by number of keys."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in results.lines:
        if line.job == job:
            for contender, point in line.points.items():
                if "keys" in point and line.values(contender):
                    values[point["series"]][point["keys"]] += line.values(contender)
    return {
        series: {keys: statistics.median(of_keys[keys]) for keys in sorted(of_keys)}
        for series, of_keys in values.items()
    }


def _draw_curves(found: Curves, figure: Any, title: str, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes = figure.subplots()
    for series, points in found.items():
        colour, mark = _STYLES[series]
        xs, ys = list(points), list(points.values())
        axes.plot(xs, ys, color=colour, marker=mark, label=_LABELS[series], linewidth=1.8)
        axes.annotate(
            _seconds(ys[-1], unit), (xs[-1], ys[-1]), textcoords="offset points",
            xytext=(6, -3), color=colour, fontsize=9,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="keys in state", ylabel=unit)
    axes.set_title(title, pad=12)
    axes.margins(x=0.1, y=0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _keys(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: ""))
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.legend(frameon=False, loc="upper left")


def _seconds(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 20 else f"{value:.2g}"
    return f"{number} {'ms' if unit.startswith('milli') else 's'}"


def _keys(count: float) -> str:
    if count >= 1_000_000:
        return f"{count / 1_000_000:g}M"
    return f"{count / 1000:g}k" if count >= 1000 else f"{count:g}"


def _draw_restart(results: Results, figure: Any, title: str) -> None:
    _draw_curves(curves(results, "g"), figure, title, "seconds to the first new item")


def _draw_epochs(results: Results, figure: Any, title: str) -> None:
    _draw_curves(curves(results, "h"), figure, title, "milliseconds an epoch")


def _rates(line: ContestResult) -> dict[str, float]:
    """Give each rival's thousands of events a second."""
    rates = {}
    for contender, point in line.points.items():
        median = line.median(contender)
        if median and point.get("events"):
            rates[contender] = point["events"] / median / 1000
    return rates


def _rated(results: Results) -> list[tuple[ContestResult, dict[str, float]]]:
    found = [(line, _rates(line)) for line in results.lines if line.job in _THROUGHPUT_JOBS]
    return [(line, rates) for line, rates in found if rates]


def _draw_throughput(results: Results, figure: Any, title: str) -> None:
    from matplotlib.ticker import FuncFormatter

    rated = _rated(results)
    figure.set_size_inches(8, 1.6 + 0.34 * len(rated))
    axes = figure.subplots()
    seen = set()
    for at, (_, rates) in enumerate(rated):
        axes.plot([min(rates.values()), max(rates.values())], [at, at], color="#cccccc", zorder=1)
        for below, (rival, rate) in enumerate(rates.items()):
            colour, mark = _STYLES[rival]
            label = None if rival in seen else _LABELS[rival]
            seen.add(rival)
            y = at + 0.11 * (below - (len(rates) - 1) / 2)  # so that equals don't hide each other
            axes.scatter(rate, y, color=colour, marker=mark, s=42, label=label, zorder=2)
    axes.set_yticks(range(len(rated)), [f"({line.job}) {line.name}" for line, _ in rated])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="thousand events a second (more is better)")
    figure.legend(
        title=title, title_fontproperties={"weight": "bold", "size": 12}, alignment="left",
        frameon=False, ncols=2, loc="outside upper left", handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.grid(axis="x", which="major", color="#dddddd", linewidth=0.7)
    axes.tick_params(axis="y", length=0)


PLOTS = {
    "restart": Plot("Restart time", lambda results: bool(curves(results, "g")), _draw_restart),
    "epoch-close": Plot(
        "Closing an epoch in which one key changed",
        lambda results: bool(curves(results, "h")),
        _draw_epochs,
    ),
    "throughput": Plot(
        "Throughput by job", lambda results: bool(_rated(results)), _draw_throughput
    ),
}


def render(results: Results, folder: Path) -> list[Path]:
    """Draw what there is data for.

    :returns: The files.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with mpl.rc_context(_SETTINGS):
        for name, plot in PLOTS.items():
            if not plot.has_data(results):
                continue
            figure = Figure(figsize=(8, 4.6), layout="constrained")
            plot.draw(results, figure, plot.title)
            for kind, metadata in (("svg", {"Date": None}), ("png", {})):
                path = folder / f"{name}.{kind}"
                figure.savefig(path, dpi=130, metadata=metadata)
                made.append(path)
    return made


def main() -> int:
    """Draw the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of `bench jobs`")
    parser.add_argument("folder", type=Path, help="where the files go")
    args = parser.parse_args()
    for path in render(Results.read(args.results), args.folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
