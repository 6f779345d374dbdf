"""Jobs (a) to (e) and (l): whole flows, from their first item to the drained end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from benchmarks.contest import BOUND_SECONDS, PAIRS, Contender, Contest, times_as_fast
from benchmarks.flow_run import (
    NONE,
    OURS,
    RIVALS,
    SLOW,
    STOCK,
    FlowRun,
    as_run,
    place_for,
    run_apart,
)
from benchmarks.flows import Load
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied

WARM_UP = 0.02
FEW = 3


@dataclass(frozen=True)
class FlowJob:
    """A flow that rivals run in turn.

    :arg job: Letter of the job.
    :arg name: Unique within the job.
    :arg title: For people.
    :arg flow: A name of a flow.
    :arg load: What goes in, at full size.
    :arg seconds: Rival to the seconds that a run takes, about.
    :arg targets: Rival, against which one, how many times as fast at least.
    :arg few: Rivals that run three times by default, because all together takes long enough.
    :arg bound: Seconds after which a run is given up.
    :arg workers: Of each process.
    :arg processes: That share the flow.
    :arg notes: What a reader must know.
    """

    job: str
    name: str
    title: str
    flow: str
    load: Load
    seconds: Mapping[str, float]
    targets: Sequence[tuple[str, str, float | None]] = ()
    few: Sequence[str] = ()
    bound: float = BOUND_SECONDS
    workers: int = 1
    processes: int = 1
    notes: Sequence[str] = field(default=())

    def contest(self, scale: float) -> Contest:
        """Make the contest, at a share of the full size."""
        plan = {
            rival: (seconds, FEW if rival in self.few else PAIRS)
            for rival, seconds in self.seconds.items()
        }
        return Contest(
            self.job, self.name, self.title, partial(self._contenders, scale), plan,
            figures=[times_as_fast(*target) for target in self.targets],
            notes=self.notes, scale=scale,
        )  # fmt: skip

    @contextmanager
    def _contenders(self, scale: float) -> Iterator[list[Contender]]:
        load = scaled(self.load, scale)
        with benchmark_server() as url:
            if scale > WARM_UP:
                for rival in (NONE, OURS):
                    self._run(rival, scaled(load, WARM_UP), url)
            yield [
                Contender(rival, partial(self._run, rival, load, url), {"events": load.events})
                for rival in self.seconds
            ]

    def _run(self, rival: str, load: Load, url: str) -> Run:
        partitions = max(1, self.processes * self.workers)
        with emptied(url), place_for(rival, partitions) as place:
            run = FlowRun(rival, self.flow, load, url, place, workers=self.workers)
            return as_run(run_apart(run, self.bound, processes=self.processes))


def scaled(load: Load, scale: float) -> Load:
    """Make a load smaller, all its parts alike."""
    return replace(
        load,
        events=max(1000, int(load.events * scale)),
        keys=max(20, int(load.keys * scale)),
        hot=load.hot and max(10, int(load.hot * scale)),
    )


def _against_both(
    slow: tuple[float | None, float | None], fast: tuple[float | None, float | None]
) -> list[tuple[str, str, float | None]]:
    """Targets of a fast path off and on, each against stock recovery and no recovery."""
    return [
        (rival, against, wanted)
        for rival, pair in ((SLOW, slow), (OURS, fast))
        for against, wanted in zip((STOCK, NONE), pair, strict=True)
    ]


_NO_TARGETS = _against_both((None, None), (None, None))
_WINDOWED = _against_both((2.5, None), (None, 1.5))
_SUMS = Load(events=2_000_000, keys=100_000, hot=0, epoch=0.5)
_NOW = Load(events=1_000_000, keys=10_000, hot=0, epoch=0.5)
_PAST = replace(_NOW, events=20_000, past=True)
_PAST_NOTE = (
    "20,000 events, not 1M: Bytewax calls every open window on each activation, "
    "so that a run of 1M takes it hours"
)


def _windows(flow: str, *, shuffled: bool, past: bool) -> FlowJob:
    load = replace(_PAST if past else _NOW, shuffled=shuffled)
    order, when = "out of order" if shuffled else "in order", "long past" if past else "of now"
    seconds = {NONE: 32.0, STOCK: 50.0, SLOW: 17.0, OURS: 5.0}
    if past:
        seconds = {NONE: 7.0, STOCK: 14.0, SLOW: 1.0, OURS: 1.0}
    return FlowJob(
        "c",
        f"{flow}, {order}, {when}",
        f"{load.events:,} events {when}, {order}, 10,000 keys: {flow} in tumbling windows",
        flow,
        load,
        seconds,
        _WINDOWED,
        few=RIVALS,
        notes=(_PAST_NOTE,) if past else (),
    )


def _spread(workers: int, processes: int) -> FlowJob:
    text = f"{processes} processes" if processes > 1 else f"{workers} workers"
    return FlowJob(
        "l",
        text,
        f"600k events over 100k keys, running sums, on {text}",
        "sums",
        replace(_SUMS, events=600_000, parts=4),
        {NONE: 2.0, STOCK: 5.0, SLOW: 2.2, OURS: 1.6},
        _NO_TARGETS,
        few=RIVALS,
        workers=workers,
        processes=processes,
    )


_ALWAYS = (
    FlowJob(
        "a",
        "sums",
        "2M events over 100k keys, running sums (stateful_map), epochs of 0.5 s",
        "sums",
        _SUMS,
        {NONE: 5.4, STOCK: 14.6, SLOW: 6.0, OURS: 3.5},
        _against_both((2.5, 1.0), (None, 1.7)),
        few=(STOCK,),
    ),
    FlowJob(
        "b",
        "hot keys",
        "1M events, 200k keys of which 1,000 stay hot, running sums, epochs of 0.1 s",
        "sums",
        Load(events=1_000_000, keys=200_000, hot=1_000, epoch=0.1),
        {NONE: 10.0, STOCK: 380.0, SLOW: 8.0, OURS: 7.0},
        _against_both((None, None), (40.0, None)),
        few=(STOCK,),
        bound=900.0,
    ),
    _windows("count", shuffled=False, past=False),
    _windows("fold", shuffled=True, past=False),
    _windows("fold", shuffled=True, past=True),
    FlowJob(
        "d",
        "sessions",
        "300k events over 10k keys: session windows of event time, three visits a key",
        "sessions",
        Load(events=300_000, keys=10_000, hot=0, epoch=0.5),
        {NONE: 3.0, STOCK: 5.0, SLOW: 3.0, OURS: 3.0},
        _NO_TARGETS,
        few=(STOCK,),
    ),
    FlowJob(
        "e",
        "join",
        "two streams of 200k keys each in opposite order: join, then the key is gone",
        "join",
        Load(events=400_000, keys=200_000, hot=0, epoch=0.5),
        {NONE: 2.0, STOCK: 4.0, SLOW: 3.0, OURS: 3.0},
        _NO_TARGETS,
        few=(STOCK,),
    ),
    _spread(2, 1),
    _spread(4, 1),
    _spread(1, 2),
)
_ON_DEMAND = (
    _windows("count", shuffled=True, past=False),
    _windows("count", shuffled=False, past=True),
    _windows("count", shuffled=True, past=True),
    _windows("fold", shuffled=False, past=False),
    _windows("fold", shuffled=False, past=True),
)


def contests(scale: float, *, every: bool) -> list[Contest]:
    """Give the contests of flows.

    :arg every: Whether those too that mix what others already show.
    """
    jobs = (*_ALWAYS, *_ON_DEMAND) if every else _ALWAYS
    return [job.contest(scale) for job in jobs]
