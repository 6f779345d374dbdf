"""A flow whose process forks children, which have copies of all that it had open.

Settings, from the environment: CHILDREN (who forks them), ITEMS, PAUSE (seconds after each item).
The process ID of each child is a line on standard output.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from multiprocessing.pool import Pool
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import TestingSink

CHILDREN = os.environ.get("CHILDREN", "executor")
ITEMS = int(os.environ.get("ITEMS", "20"))
PAUSE = timedelta(seconds=float(os.environ.get("PAUSE", "0")))

_forking = multiprocessing.get_context("fork")
_executor = ProcessPoolExecutor(2, mp_context=_forking)
_pools: list[Pool] = []
_others: list[Any] = []


def square(value: int) -> tuple[int, int]:
    """Do the work of a child; gives the child's process ID and the square."""
    return os.getpid(), value * value


def _by_executor(value: int) -> tuple[int, int]:
    return _executor.submit(square, value).result()


def _by_pool(value: int) -> tuple[int, int]:
    if not _pools:
        _pools.append(_forking.Pool(2))
    return _pools[0].apply(square, (value,))


def _by_ended_pool(value: int) -> tuple[int, int]:
    """Leaving the block sends SIGTERM to the children."""
    with _forking.Pool(2) as pool:
        return pool.apply(square, (value,))


def _beside_process(value: int) -> tuple[int, int]:
    if not _others:
        _others.append(_forking.Process(target=time.sleep, args=(600,), daemon=True))
        _others[0].start()
    return _others[0].pid, value * value


def _beside_library(value: int) -> tuple[int, int]:
    """A library forks by itself, and Python does not learn of it."""
    if not _others:
        libc = ctypes.PyDLL(None)
        child = libc.fork()
        if child == 0:
            libc.close(1)  # a test waits for the end of what the flow says
            libc.close(2)
            libc.sleep(600)
            libc._exit(0)
        _others.append(child)
    return _others[0], value * value


WAYS = {
    "executor": _by_executor,
    "pool": _by_pool,
    "ended pool": _by_ended_pool,
    "process": _beside_process,
    "library": _beside_library,
}


def _work(value: int) -> int:
    child, result = WAYS[CHILDREN](value)
    print(child, flush=True)
    return result


class _Part(StatefulSourcePartition[tuple[str, int], int]):
    def __init__(self, number: int):
        self._number = number
        self._awake: datetime | None = None

    def next_batch(self) -> list[tuple[str, int]]:
        if self._number == ITEMS:
            raise StopIteration
        self._number += 1
        self._awake = datetime.now(timezone.utc) + PAUSE
        return [("k", self._number)]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._number


class _Source(FixedPartitionedSource[tuple[str, int], int]):
    def list_parts(self) -> list[str]:
        return ["part"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(resume_state or 0)


flow = Dataflow("families")
items = op.input("in", flow, _Source())
squares = op.map_value("work", items, _work)
sums = op.stateful_map("sum", squares, lambda total, value: ((total or 0) + value, None))
op.output("out", sums, TestingSink([]))
