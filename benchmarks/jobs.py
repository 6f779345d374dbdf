"""The jobs, by letter, and the contests of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import (
    epochs,
    examples,
    flow_jobs,
    footprint,
    idle,
    replication,
    resume,
    state_access,
)
from benchmarks.contest import Contest

JOBS = {
    "a": "running sums: 2M events over 100k keys",
    "b": "200k keys of which 1,000 are hot",
    "c": "tumbling windows of event time",
    "d": "session windows",
    "e": "joins",
    "f": "the example flows",
    "g": "restart with up to a million keys",
    "h": "closing an epoch in which one key changed",
    "i": "shipping: rate of the drain, and lag",
    "j": "folding, beside redis-benchmark",
    "k": "bytes a key, and memory of the processes",
    "l": "two and four workers, two processes",
    "m": "state by key, beside the embedded stores of Quix Streams and Faust",
    "n": "processor time of an idle flow",
}


@dataclass(frozen=True)
class Extent:
    """The extent of a benchmark.

    :arg jobs: Letters; none for all.
    :arg scale: Share of the full size.
    :arg pairs: Runs of each rival; ``None`` for five, and three of slow ones.
    :arg every: Whether to include the variants that are left out by default.
    """

    jobs: tuple[str, ...] = ()
    scale: float = 1.0
    pairs: int | None = None
    every: bool = False

    def contests(self) -> list[Contest]:
        """Give the contests to hold, in the order of the jobs."""
        found: Iterable[Contest] = (
            *flow_jobs.contests(self.scale, every=self.every),
            *examples.contests(self.scale),
            *resume.contests(self.scale, every=self.every),
            *epochs.contests(self.scale),
            *replication.contests(self.scale),
            *footprint.contests(self.scale),
            *state_access.contests(self.scale),
            *idle.contests(self.scale),
        )
        wanted = self.jobs or tuple(JOBS)
        return sorted((c for c in found if c.job in wanted), key=lambda contest: contest.job)
