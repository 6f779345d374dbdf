"""Job (k): the memory of a small key in Redis, and of the processes of a flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.contest import BOUND_SECONDS, Contender, Contest, growth, median_of
from benchmarks.flow_run import NONE, OURS, STOCK, FlowRun, place_for, run_apart
from benchmarks.flows import Load
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect

BYTES_AT_MOST = 200.0
REPLICATOR = "ours, replicator"
_FEW = 3
_LOAD = Load(events=1_000_000, keys=200_000, hot=0, epoch=0.5)


def _used_memory(url: str) -> int:
    with connect(RedisConfig(url=url)) as client:
        return int(client.info("memory")["used_memory"])


def _told(rival: str, load: Load, url: str) -> dict[str, Any]:
    with place_for(rival) as place:
        run = FlowRun(rival, "sums", load, url, place, watched=rival == OURS)
        return run_apart(run, BOUND_SECONDS)


def _bytes_per_key(load: Load, url: str) -> Run:
    with emptied(url):
        before = _used_memory(url)
        _told(OURS, load, url)
        return Run(round((_used_memory(url) - before) / load.keys, 1))


class _MemoryOfRivals:
    """Peak memory; the replicator's is that of the run of ours just before."""

    def __init__(self, load: Load, url: str) -> None:
        self._load, self._url = load, url
        self._replicator = 0.0

    def run(self, rival: str) -> Run:
        if rival == REPLICATOR:
            return Run(round(self._replicator, 1))
        with emptied(self._url):
            told = _told(rival, self._load, self._url)
        self._replicator = told["replicator_mib"]
        return Run(round(told["peak_mib"], 1))


@contextmanager
def _keys(load: Load) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        yield [Contender(OURS, partial(_bytes_per_key, load, url))]


@contextmanager
def _processes(load: Load) -> Iterator[list[Contender]]:
    with benchmark_server() as url:
        memory = _MemoryOfRivals(load, url)
        rivals = (NONE, STOCK, OURS, REPLICATOR)
        yield [Contender(rival, partial(memory.run, rival)) for rival in rivals]


def contests(scale: float) -> list[Contest]:
    """Give the contests."""
    load = Load(max(1000, int(_LOAD.events * scale)), max(100, int(_LOAD.keys * scale)), 0, 0.5)
    few = Load(load.keys * 2, load.keys, 0, 0.5)
    return [
        Contest(
            "k", "bytes a key", "200k running sums in Redis: used memory for each key of 11 bytes",
            partial(_keys, few), {OURS: (2.0, _FEW)},
            [median_of(OURS, "B a key", at_most=BYTES_AT_MOST)], unit="B", scale=scale,
        ),
        Contest(
            "k", "processes", "1M events over 200k keys, running sums: peak memory of a process",
            partial(_processes, load),
            {NONE: (3.0, _FEW), STOCK: (10.0, _FEW), OURS: (3.0, _FEW), REPLICATOR: (0.0, _FEW)},
            [growth(OURS, NONE), growth(OURS, STOCK)], unit="MiB", scale=scale,
        ),
    ]  # fmt: skip
