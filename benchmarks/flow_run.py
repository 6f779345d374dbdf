"""One run of a flow by one rival, in a process of its own: the unit of the benchmarks of flows.

The process runs ``python -m benchmarks.flow_run SPEC``, with a :class:`FlowRun` as JSON, and prints
its measurements as its last line. Time counts from the first item of the source to the drained end:
for ours, everything is in Redis by then. A wrong output is an error, so that no rival wins by one.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir

from benchmarks import event_time, joining
from benchmarks.contest import FailedRunError, TooSlowError
from benchmarks.flows import Load, Tally, check_sums, sums
from benchmarks.peak_memory import PeakMemory
from benchmarks.results import Run
from benchmarks.single_changes import single_changes
from benchmarks.stored_sums import require_stored_sums
from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.network.ports import free_addresses

NONE, STOCK, SLOW, OURS = "no recovery", "stock recovery", "ours, no fast paths", "ours"
RIVALS = (NONE, STOCK, SLOW, OURS)
ROOT = Path(__file__).resolve().parents[1]

_FLOWS: Mapping[str, tuple[Callable[[Load, Tally], Dataflow], Callable[[Load, Tally], None]]] = {
    "sums": (sums, check_sums),
    "epochs": (single_changes, check_sums),
    "count": (event_time.count, event_time.check_counts),
    "fold": (event_time.fold, event_time.check_counts),
    "sessions": (event_time.sessions, event_time.check_counts),
    "join": (joining.join, joining.check_joined),
}
"""Name of a flow to the function that builds it, and the function that checks its output."""


@dataclass(frozen=True)
class FlowRun:
    """The specification of a run.

    :arg rival: One of ``RIVALS``.
    :arg flow: A name of a flow, or the path of a file with a ``flow`` in it.
    :arg load: The input of the flow; for a file, only its epoch counts.
    :arg url: Where Redis is.
    :arg place: Namespace of ours, folder of stock; kept by the caller.
    :arg workers: Of each process.
    :arg process: Number of this process, where there are several.
    :arg addresses: Of all processes, where there are several.
    :arg watched: Whether the replicator's memory is looked at while the flow runs.
    """

    rival: str
    flow: str
    load: Load
    url: str = ""
    place: str = ""
    workers: int = 1
    process: int | None = None
    addresses: tuple[str, ...] = ()
    watched: bool = False

    @classmethod
    def from_json(cls, text: str) -> FlowRun:
        """Read the JSON of ``asdict``."""
        given = json.loads(text)
        load, addresses = Load(**given.pop("load")), tuple(given.pop("addresses"))
        return cls(load=load, addresses=addresses, **given)


# -- in the child ------------------------------------------------------------------------------


class _Lines(io.TextIOBase):
    """Standard output of an example: a sum of check sums of its lines, in whatever order."""

    def __init__(self) -> None:
        self.digest = 0
        self._line = ""

    def write(self, text: str) -> int:
        self._line += text
        if text.endswith("\n"):
            self.digest = (self.digest + zlib.crc32(self._line.encode())) & 0xFFFFFFFF
            self._line = ""
        return len(text)


def _load_file(path: str) -> Dataflow:
    spec = importlib.util.spec_from_file_location("example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    flow: Dataflow = module.flow
    return flow


def _watch_sources(steps: Any, begun: list[float]) -> None:
    """Note the time of a source's first items; after that the source is called directly."""
    for step in steps:
        source = getattr(step, "source", None)
        if source is not None:
            source.build_part = _watched(source.build_part, begun)
        _watch_sources(step.substeps, begun)


def _watched(build: Callable[..., Any], begun: list[float]) -> Callable[..., Any]:
    def build_part(*args: Any) -> Any:
        part = build(*args)
        inner = part.next_batch

        def next_batch() -> Any:
            at = time.time()
            items = inner()
            if items:
                begun.append(at)
                part.next_batch = inner
            return items

        part.next_batch = next_batch
        return part

    return build_part


def _run(run: FlowRun, flow: Dataflow) -> dict[str, Any]:
    """Run to the drained end.

    :returns: Keys and seconds of the resume, for ours.
    """
    epoch = timedelta(seconds=run.load.epoch)
    engine: dict[str, Any] = {
        "workers_per_process": run.workers,
        "process_id": run.process,
        "addresses": list(run.addresses) or None,
    }
    if run.rival in (SLOW, OURS):
        recovery = RedisRecovery(run.url, namespace=run.place, fast_paths=run.rival == OURS)
        resumed = recovery.run(flow, epoch_interval=epoch, **engine)
        return {"restored": dict(resumed.keys), "resume": resumed.seconds}
    config = RecoveryConfig(run.place, timedelta(0)) if run.rival == STOCK else None
    cli_main(flow, **engine, epoch_interval=epoch, recovery_config=config)
    return {}


def measure(run: FlowRun, *, whole: bool) -> dict[str, Any]:
    """Run in this process.

    :arg whole: Whether the run begins at the beginning: then all that went in has to come out.
    """
    begun: list[float] = []
    first_out: list[float] = []
    tally = Tally(first_out.append)
    build, check = _FLOWS.get(run.flow, (None, None))
    flow = _load_file(run.flow) if build is None else build(run.load, tally)
    _watch_sources(flow.substeps, begun)
    lines, memory = _Lines(), PeakMemory()
    if run.watched:
        memory.watch()
    with redirect_stdout(lines):
        told = _run(run, flow)
    ended = time.time()
    if whole and check is not None and run.process is None:
        check(run.load, tally)
    return {
        **told,
        **tally.seen,
        "begun": min(begun, default=ended),
        "first_out": min(first_out, default=None),
        "ended": ended,
        "peak_mib": memory.own,
        "replicator_mib": memory.replicator,
        "digest": lines.digest,
        "came_out": sum(sum(totals.values()) for totals in tally.totals) + tally.counted,
    }


def main() -> int:
    """Run the flow that the command line specifies."""
    run = FlowRun.from_json(sys.argv[1])
    print(json.dumps(measure(run, whole=sys.argv[2:] != ["goes-on"])))
    return 0


# -- in the parent -----------------------------------------------------------------------------


def _command(run: FlowRun, *, goes_on: bool) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.flow_run", json.dumps(asdict(run))]
    return [*command, "goes-on"] if goes_on else command


def environment(**settings: str) -> dict[str, str]:
    """Give a child's environment: with these benchmarks on its path, and settings of a flow."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **settings}


def run_apart(
    run: FlowRun,
    bound: float,
    *,
    goes_on: bool = False,
    processes: int = 1,
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run in a process of its own, or in several.

    :arg bound: Seconds.
    :arg goes_on: Whether it resumes an earlier run: then not all that went in comes out.
    :arg processes: How many share the flow.
    :arg settings: Environment variables, for the examples.
    :returns: What was measured, with ``started``, and ``seconds`` from the first item on.
    :raises TooSlowError: If it takes longer than the bound; then it is ended.
    """
    started = time.time()
    with _started(run, processes, goes_on, settings or {}) as children:
        outputs = [_output(child, started + bound, bound) for child in children]
    told: list[dict[str, Any]] = [json.loads(output.splitlines()[-1]) for output in outputs]
    begun, ended = min(t["begun"] for t in told), max(t["ended"] for t in told)
    if processes > 1:
        Tally().require("sums", sum(t["came_out"] for t in told), run.load.events)
    if run.flow == "sums" and run.rival in (SLOW, OURS) and not goes_on:
        require_stored_sums(run.url, run.place, run.load)
    return told[0] | {"started": started, "begun": begun, "ended": ended, "seconds": ended - begun}


@contextmanager
def _started(
    run: FlowRun, processes: int, goes_on: bool, settings: dict[str, str]
) -> Iterator[list[subprocess.Popen[str]]]:
    runs = [run]
    if processes > 1:
        addresses = tuple(free_addresses(processes))
        runs = [replace(run, process=n, addresses=addresses) for n in range(processes)]
    children = []
    try:
        for one in runs:
            children.append(
                subprocess.Popen(
                    _command(one, goes_on=goes_on),
                    env=environment(**settings),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def _output(child: subprocess.Popen[str], deadline: float, bound: float) -> str:
    try:
        out, err = child.communicate(timeout=max(0.0, deadline - time.time()))
    except subprocess.TimeoutExpired:
        raise TooSlowError(f"a run took longer than {bound:.0f} s") from None
    if child.returncode:
        raise FailedRunError(f"a run ended with {child.returncode}: {err[-3000:]}")
    return out


@contextmanager
def place_for(rival: str, partitions: int = 1) -> Iterator[str]:
    """Make a place for a rival's state: a folder, or a namespace of its own.

    :arg partitions: Of stock recovery.
    """
    if rival == STOCK:
        folder = tempfile.mkdtemp(prefix="bench-stock-")
        try:
            init_db_dir(Path(folder), partitions)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield f"bench-{time.time_ns()}"


def as_run(told: dict[str, Any]) -> Run:
    """Give the run of a contest for the measurements of a process."""
    extra = {"whole": told["ended"] - told["started"], "peak_mib": told["peak_mib"]}
    return Run(round(told["seconds"], 4), {name: round(x, 3) for name, x in extra.items()})


if __name__ == "__main__":
    sys.exit(main())
