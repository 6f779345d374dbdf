"""Job (f): the example flows as they are shipped; the output of all rivals must be equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.contest import BOUND_SECONDS, Contender, Contest, times_as_fast
from benchmarks.flow_jobs import FEW, WARM_UP
from benchmarks.flow_run import NONE, OURS, ROOT, STOCK, FlowRun, as_run, place_for, run_apart
from benchmarks.flows import Load, WrongResultError
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied

_LOAD = Load(events=0, keys=0, hot=0, epoch=0.5)
_SECONDS = {NONE: 1.5, STOCK: 2.0, OURS: 2.0}
_FOLDER = ROOT / "examples" / "dataflows"


@dataclass(frozen=True)
class Example:
    """An example flow and its size.

    :arg name: Of its file.
    :arg settings: Its environment variables; those that scale with the benchmark are numbers.
    """

    name: str
    settings: dict[str, int | str]

    def environment(self, scale: float) -> dict[str, str]:
        """Give its settings at a share of the full size."""
        return {
            name: str(max(200, int(value * scale)) if isinstance(value, int) else value)
            for name, value in self.settings.items()
        }

    @property
    def path(self) -> Path:
        """Where it is."""
        return _FOLDER / f"{self.name}.py"


EXAMPLES = (
    Example("clicks_per_minute", {"CLICKS_EVENTS": 100_000, "CLICKS_PAGES": 5_000}),
    Example("fraud_score", {"FRAUD_EVENTS": 50_000, "FRAUD_CARDS": 2_000}),
    Example("rolling_average", {"ROLLING_EVENTS": 30_000, "ROLLING_SENSORS": 200}),
    Example("sessions", {"SESSIONS_EVENTS": 50_000, "SESSIONS_USERS": 2_000}),
)
"""Without ``expiring_sessions``, which waits for time to pass, with every rival alike."""


class _Race:
    """Rivals on one example: the output of each must equal that of the first."""

    def __init__(self, example: Example, settings: dict[str, str], url: str) -> None:
        self._example, self._settings, self._url = example, settings, url
        self._digest: int | None = None

    def run(self, rival: str) -> Run:
        with emptied(self._url), place_for(rival) as place:
            run = FlowRun(rival, str(self._example.path), _LOAD, self._url, place)
            told = run_apart(run, BOUND_SECONDS, settings=self._settings)
        if self._digest not in (None, told["digest"]):
            raise WrongResultError(f"{self._example.name}: {rival} put out something else")
        self._digest = told["digest"]
        return as_run(told)


@contextmanager
def _contenders(example: Example, scale: float) -> Iterator[list[Contender]]:
    settings = example.environment(scale)
    with benchmark_server() as url:
        if scale > WARM_UP:
            _Race(example, example.environment(WARM_UP), url).run(OURS)
        race = _Race(example, settings, url)
        events = next(int(v) for name, v in settings.items() if name.endswith("_EVENTS"))
        yield [Contender(rival, partial(race.run, rival), {"events": events}) for rival in _SECONDS]


def contests(scale: float) -> list[Contest]:
    """Give a contest for each example."""
    return [
        Contest(
            "f",
            example.name,
            f"the example {example.name}, {next(iter(example.settings.values())):,} events",
            partial(_contenders, example, scale),
            {rival: (seconds, FEW) for rival, seconds in _SECONDS.items()},
            figures=[times_as_fast(OURS, STOCK), times_as_fast(OURS, NONE)],
            scale=scale,
        )
        for example in EXAMPLES
    ]
