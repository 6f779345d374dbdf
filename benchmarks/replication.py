"""Jobs (i) and (j): how fast and how soon changes reach the journal, and how fast it is folded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.contest import Contender, Contest, median_of, share
from benchmarks.folding import Bench, benchmark_rate
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied
from benchmarks.shipping import DRAIN_KEYS_PER_SECOND, LAG_P99_MS, drain, lag
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect

DRAINED_KEYS, FOLDED_KEYS = 1_000_000, 500_000
SIZES = (1_000, 100_000)
LAG_EPOCHS = {1_000: (200, 0.1), 100_000: (20, 0.5)}
FOLD, FOLD_TTL = "fold", "fold with TTL"
REDIS_BENCHMARK, AMONG_AS_MANY = "redis-benchmark SET", "redis-benchmark SET, as many keys"
_FEW = 3
_OF_REDIS_BENCHMARK = {FOLD: 0.7, FOLD_TTL: 0.4}


def _changed(size: int) -> str:
    return f"{size:,} changed keys an epoch"


def _drain(size: int, scale: float, url: str) -> Run:
    with emptied(url):
        found = drain(url, max(10, int(size * scale)), max(10, int(DRAINED_KEYS * scale)))
    return Run(round(found.rate), {"cpu_us": round(found.cpu, 3), "peak_mib": found.peak_mib})


def _lag(size: int, scale: float, url: str) -> Run:
    epochs, interval = LAG_EPOCHS[size]
    with emptied(url):
        found = lag(url, max(10, int(size * scale)), max(3, int(epochs * scale)), interval)
    return Run(round(found.p99, 3), {"p50_ms": round(found.p50, 3)})


def _rate(scale: float, url: str, *, timed: bool) -> Run:
    with emptied(url):
        bench = Bench(url, max(100, int(FOLDED_KEYS * scale)), timed=timed)
        new = bench.rate(1)
        return Run(round(bench.rate(2)), {"into_nothing": round(new)})


def _redis_benchmark(scale: float, url: str, *, as_many: bool) -> Run:
    socket, keys = url.removeprefix("unix://"), max(1000, int(FOLDED_KEYS * scale))
    with emptied(url), connect(RedisConfig(url=url)) as client:
        return Run(benchmark_rate(client, socket, keys, among=keys if as_many else 1))


@contextmanager
def _by_size(run: partial[Run]) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        yield [Contender(_changed(size), partial(run, size, url=url)) for size in SIZES]


@contextmanager
def _folders(scale: float) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        made = [
            Contender(FOLD, partial(_rate, scale, url, timed=False)),
            Contender(FOLD_TTL, partial(_rate, scale, url, timed=True)),
        ]
        if _has_redis_benchmark():
            for name, as_many in ((REDIS_BENCHMARK, False), (AMONG_AS_MANY, True)):
                run = partial(_redis_benchmark, scale, url, as_many=as_many)
                made.append(Contender(name, run))
        yield made


def _has_redis_benchmark() -> bool:
    return shutil.which("redis-benchmark") is not None


def contests(scale: float) -> list[Contest]:
    """Give the contests."""
    return [_drains(scale), _lags(scale), _folds(scale)]


def _drains(scale: float) -> Contest:
    return Contest(
        "i", "drain", f"a full outbox of {DRAINED_KEYS:,} changed keys goes to the journal",
        partial(_by_size, partial(_drain, scale=scale)),
        {_changed(size): (7.0, _FEW) for size in SIZES},
        [
            median_of(_changed(size), "changed keys/s", at_least=DRAIN_KEYS_PER_SECOND)
            for size in SIZES
        ],
        unit="keys/s", scale=scale,
    )  # fmt: skip


def _lags(scale: float) -> Contest:
    small, _ = SIZES
    return Contest(
        "i", "lag", "from an epoch's commit in the outbox to its rows in the journal, p99",
        partial(_by_size, partial(_lag, scale=scale)),
        {_changed(size): (LAG_EPOCHS[size][0] * LAG_EPOCHS[size][1] + 2, _FEW) for size in SIZES},
        [median_of(_changed(small), "ms at p99", at_most=LAG_P99_MS)],
        unit="ms", scale=scale,
    )  # fmt: skip


def _folds(scale: float) -> Contest:
    rivals = {FOLD: (6.0, _FEW), FOLD_TTL: (7.0, _FEW)}
    notes = [
        "redis-benchmark -t set -P 16 -c 10 -d 40, on the same server: it sets one key again and "
        "again, which stays in the processor's cache; with -r it sets as many as are folded"
    ]
    if _has_redis_benchmark():
        rivals |= {REDIS_BENCHMARK: (1.0, _FEW), AMONG_AS_MANY: (1.5, _FEW)}
        figures = [share(of, REDIS_BENCHMARK, wanted) for of, wanted in _OF_REDIS_BENCHMARK.items()]
        figures += [share(of, AMONG_AS_MANY) for of in _OF_REDIS_BENCHMARK]
    else:
        figures, notes = [], ["redis-benchmark is not installed"]
    return Contest(
        "j", "fold", f"{FOLDED_KEYS:,} changed keys are folded over keys that are there, 40 bytes",
        partial(_folders, scale), rivals, figures, unit="keys/s", notes=notes, scale=scale,
    )  # fmt: skip
