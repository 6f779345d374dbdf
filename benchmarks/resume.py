"""Job (g): the time from the start of a flow with much state to its first new item.

A first run gives each key a state and ends; then processes start again with more input. Time counts
from the start of the process, that of Python included, to the first item of the output.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks.contest import PAIRS, Contender, Contest, FigureMaker, median_of, times_as_fast
from benchmarks.flow_run import OURS, STOCK, FlowRun, place_for, run_apart
from benchmarks.flows import BATCH, Load, WrongResultError
from benchmarks.results import Figure, Run
from benchmarks.server import benchmark_server

BOUND = 420.0
_EPOCH = 10.0  # Bytewax's own default
_FEW = 3
_MILLION = 1_000_000
STOCK_64 = f"{STOCK}, 64 partitions"
_PARTITIONS = {STOCK: 1, STOCK_64: 64, OURS: 0}

# Rival to keys to the seconds that a start takes, about.
SECONDS: Mapping[str, Mapping[int, float]] = {
    STOCK: {10_000: 1.0, 100_000: 8.5, 200_000: 29.0, 400_000: 125.0},
    STOCK_64: {10_000: 1.0, 100_000: 1.7, 200_000: 2.5, 400_000: 5.0, _MILLION: 16.0},
    OURS: {10_000: 1.0, 100_000: 1.2, 200_000: 1.6, 400_000: 2.4, _MILLION: 4.5},
}
SECONDS_AT_MOST, TIMES_AS_FAST = 4.0, 20.0
SLOPE_AT_MOST = 1.3


def _scaled(keys: int, scale: float) -> int:
    """Make a size smaller; whole batches, so that a run ends where the next one goes on."""
    return max(1, round(keys * scale / BATCH)) * BATCH


class _Restarts:
    """A rival's state of so many keys, started again and again."""

    def __init__(self, rival: str, keys: int, url: str, place: str) -> None:
        self._rival, self._keys = rival, keys
        self._url, self._place = url, place
        self._starts = 0

    def _run(self, *, goes_on: bool) -> dict[str, Any]:
        load = Load(self._keys + self._starts * BATCH, self._keys, hot=0, epoch=_EPOCH)
        name = OURS if self._rival == OURS else STOCK
        run = FlowRun(name, "sums", load, self._url, self._place)
        return run_apart(run, BOUND, goes_on=goes_on)

    def fill(self) -> None:
        """Give each key a state."""
        self._run(goes_on=False)

    def start(self) -> Run:
        """Start the flow again, with more input."""
        self._starts += 1
        told = self._run(goes_on=True)
        restored = told.get("restored", {}).get("sum", 0)
        if self._rival == OURS and restored != self._keys:
            raise WrongResultError(f"{restored} of {self._keys} keys were restored")
        # Each start touches a thousand keys, and what comes out is their new totals.
        self._require_totals(told["came_out"])
        extra = {"peak_mib": round(told["peak_mib"], 1)}
        if self._rival == OURS:
            extra["resume"] = round(told["resume"], 3)
        return Run(round(told["first_out"] - told["started"], 4), extra)

    def _require_totals(self, found: float) -> None:
        first = (self._starts - 1) * BATCH
        wanted = sum(2 + (first + n) // self._keys for n in range(BATCH))
        if found != wanted:
            raise WrongResultError(f"{self._rival}: totals of {found}, not {wanted}")


@contextmanager
def _contenders(scale: float, rivals: Mapping[int, Sequence[str]]) -> Iterator[list[Contender]]:
    with ExitStack() as stack:
        made = []
        for keys, entered in rivals.items():
            for rival in entered:
                restarts = _restarts(stack, rival, _scaled(keys, scale))
                point = {"series": rival, "keys": _scaled(keys, scale)}
                made.append(Contender(name_of(rival, keys), restarts.start, point))
        yield made


def _restarts(stack: ExitStack, rival: str, keys: int) -> _Restarts:
    url = stack.enter_context(benchmark_server()) if rival == OURS else ""
    place = stack.enter_context(place_for(OURS if rival == OURS else STOCK, _PARTITIONS[rival]))
    made = _Restarts(rival, keys, url, place)
    made.fill()
    return made


def name_of(rival: str, keys: int) -> str:
    """Name a rival with so many keys."""
    return f"{rival}, {keys // 1000:,}k keys"


def _slope(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Compare the time for each further key between large sizes with that between small sizes."""
    text = "marginal time per key, 400k → 1M against 100k → 200k"
    name = name_of(OURS, _MILLION)
    medians = {}
    for keys in SECONDS[OURS]:
        values = [run.value for run in runs[name_of(OURS, keys)] if run.value is not None]
        if not values:
            return Figure(name, text, None, SLOPE_AT_MOST, at_most=True)
        medians[keys] = statistics.median(values)
    low = (medians[200_000] - medians[100_000]) / 100_000
    high = (medians[_MILLION] - medians[400_000]) / 600_000
    value = high / low if low > 0 else None
    return Figure(name, text, value, SLOPE_AT_MOST, at_most=True)


def _contest(
    name: str, rivals: Mapping[int, Sequence[str]], figures: Sequence[FigureMaker], scale: float
) -> Contest:
    plan = {
        name_of(rival, keys): (SECONDS[rival][keys], _runs(SECONDS[rival][keys], rival))
        for keys, entered in rivals.items()
        for rival in entered
    }
    fills = sum(2.0 + keys / 60_000 for keys, entered in rivals.items() for _ in entered)
    return Contest(
        "g", name, f"start of a process to its first new item, running sums, {name}",
        partial(_contenders, scale, rivals), plan, figures, prepare_seconds=fills, scale=scale,
    )  # fmt: skip


def _runs(seconds: float, rival: str) -> int:
    """Give the number of runs by default: one for a rival that takes minutes."""
    if rival == OURS:
        return PAIRS
    return _FEW if seconds < 60 else 1


def contests(scale: float, *, every: bool = False) -> list[Contest]:
    """Give the contests: sizes that are compared in one, so that they meet the same noise.

    :arg every: Whether also the size at which stock takes minutes.
    """
    figures = [
        times_as_fast(name_of(OURS, 200_000), name_of(STOCK, 200_000), TIMES_AS_FAST),
        median_of(name_of(OURS, _MILLION), "s to the first item", at_most=SECONDS_AT_MOST),
        _slope,
    ]
    three, two = (STOCK, STOCK_64, OURS), (STOCK_64, OURS)
    sizes = {10_000: three, 100_000: three, 200_000: three, 400_000: two, _MILLION: two}
    made = [_contest("10k to 1M keys", sizes, figures, scale)]
    if every:
        last = times_as_fast(name_of(OURS, 400_000), name_of(STOCK, 400_000))
        made.append(_contest("400k keys", {400_000: (STOCK, OURS)}, [last], scale))
    return made
