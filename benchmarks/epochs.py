"""Job (h): the cost of an epoch in which one key changed, by the number of keys in state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contest import Contender, Contest, growth, times_as_fast
from benchmarks.flow_run import OURS, STOCK, FlowRun, place_for, run_apart
from benchmarks.flows import Load
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied
from benchmarks.single_changes import WARM_UP_EPOCHS

EPOCHS = 100
GROWTH_AT_MOST = 1.5
_FEW = 3
_BOUND = 300.0
# Rival to keys to seconds a run, about.
_SECONDS = {
    OURS: {1_000: 2.5, 10_000: 2.5, 100_000: 5.0, 1_000_000: 18.0},
    STOCK: {1_000: 2.0, 10_000: 3.0, 100_000: 14.0},
}


def _run(rival: str, load: Load, url: str) -> Run:
    with emptied(url), place_for(rival) as place:
        told = run_apart(FlowRun(rival, "epochs", load, url, place), _BOUND)
    return Run(round(told["median_ms"], 4), {"p99_ms": round(told["p99_ms"], 3)})


@contextmanager
def _contenders(scale: float) -> Iterator[list[Contender]]:
    epochs = WARM_UP_EPOCHS + max(20, int(EPOCHS * min(1.0, 10 * scale)))
    with benchmark_server() as url:
        made = []
        for rival, sizes in _SECONDS.items():
            for size in sizes:
                keys = max(10, int(size * scale))
                load = Load(events=keys + epochs, keys=keys, hot=0, epoch=0.0)
                run = partial(_run, rival, load, url)
                made.append(Contender(name_of(rival, size), run, {"series": rival, "keys": keys}))
        yield made


def name_of(rival: str, keys: int) -> str:
    """Name a rival with so many keys."""
    return f"{rival}, {keys // 1000:,}k keys"


def contests(scale: float) -> list[Contest]:
    """Give the contest: all sizes in turn."""
    plan = {
        name_of(rival, keys): (seconds, _FEW)
        for rival, sizes in _SECONDS.items()
        for keys, seconds in sizes.items()
    }
    figures = [
        growth(name_of(OURS, 1_000_000), name_of(OURS, 1_000), GROWTH_AT_MOST),
        times_as_fast(name_of(OURS, 100_000), name_of(STOCK, 100_000)),
    ]
    note = f"A run's value is the median of {EPOCHS} epochs."
    return [
        Contest(
            "h", "one changed key", "an epoch in which one key changed, running sums",
            partial(_contenders, scale), plan, figures, unit="ms", notes=[note], scale=scale,
        )
    ]  # fmt: skip
