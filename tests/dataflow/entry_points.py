"""The ways to run a flow: in this thread, on two worker threads, in two processes.

A child of :func:`run_two_processes` is ``python -m entry_points``, started in this folder.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax.dataflow import Dataflow
from bytewax.testing import cluster_main, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.dataflow.retention import lifetimes

EPOCH_INTERVAL = timedelta(milliseconds=50)
"""Of runs whose idle keys expire: deadlines come when an epoch closes."""

Build = Callable[[list[Any]], Dataflow]


def _prepared(
    flow: Dataflow, workers: int, *, sharded: bool, retained: bool, fast: bool
) -> tuple[Dataflow, timedelta | None]:
    retention = lifetimes(flow, {}, timedelta(0)) if retained else None
    if sharded:
        flow = shard_stateful_steps(flow, workers=workers, retention=retention, fast_paths=fast)
    return flow, EPOCH_INTERVAL if retained else None


def run_thread(
    build: Build, *, sharded: bool, retained: bool = False, fast: bool = True
) -> list[Any]:
    """Run a flow on one worker.

    :arg build: Makes the flow, given the list that its sinks fill.
    :arg sharded: Whether to rewrite it.
    :arg retained: Whether its idle keys expire.
    :arg fast: Whether operators whose logic is known run without a logic per key.
    :returns: The list.
    """
    record: list[Any] = []
    flow, interval = _prepared(build(record), 1, sharded=sharded, retained=retained, fast=fast)
    run_main(flow, epoch_interval=interval)
    return record


def run_two_threads(
    build: Build, *, sharded: bool, retained: bool = False, fast: bool = True
) -> list[Any]:
    """Run a flow on two workers of this process; as :func:`run_thread`."""
    record: list[Any] = []
    flow, interval = _prepared(build(record), 2, sharded=sharded, retained=retained, fast=fast)
    cluster_main(flow, [], 0, worker_count_per_proc=2, epoch_interval=interval)
    return record


def run_two_processes(
    module: str, build: str, *, sharded: bool, retained: bool = False, fast: bool = True
) -> list[Any]:
    """Run a flow in two processes.

    :arg module: In this folder.
    :arg build: Name of the function in it; as in :func:`run_thread`.
    :arg sharded: Whether to rewrite the flow.
    :arg retained: Whether its idle keys expire.
    :arg fast: As in :func:`run_thread`.
    :returns: What the sinks of both filled, as JSON gives it back.
    """
    from tests.ports import free_addresses  # the children, started in this folder, lack it

    addresses = free_addresses(2)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(process) for process in range(2)]
        call = [sys.executable, "-m", "entry_points", module, build]
        call += [str(int(switch)) for switch in (sharded, retained, fast)]
        children = [
            subprocess.Popen(
                [*call, str(process), str(file), *addresses],
                cwd=Path(__file__).parent,
                stderr=subprocess.PIPE,
            )
            for process, file in enumerate(files)
        ]
        for child in children:
            _out, errors = child.communicate(timeout=BOUND_SECONDS)
            assert child.returncode == 0, errors.decode()
        return [row for file in files for row in json.loads(file.read_text())]


def _child(
    module: str,
    build: str,
    sharded: str,
    retained: str,
    fast: str,
    process: str,
    file: str,
    *hosts: str,
) -> None:
    record: list[Any] = []
    flow, interval = _prepared(
        getattr(importlib.import_module(module), build)(record),
        len(hosts),
        sharded=bool(int(sharded)),
        retained=bool(int(retained)),
        fast=bool(int(fast)),
    )
    cluster_main(flow, list(hosts), int(process), epoch_interval=interval)
    Path(file).write_text(json.dumps(record))


if __name__ == "__main__":
    _child(*sys.argv[1:])
