"""Windows on the fast path in two processes: what comes out is what stock Bytewax puts out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

import pytest

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.dataflow.fast_paths.windows.window_shard import WindowShard
from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from tests.dataflow.fast_paths.test_fast_paths import kinds_in

from . import readings
from .conftest import Sums, environment, finished

FLOW = Path(readings.__file__)
OPTIONS = ("-s", "0.1", "--checkpoint-interval", "0.2")
WAYS = {"fast": (), "slow": ("--no-fast-paths",)}
STEPS = ("count", "fold", "collect", "visits")


def windows_at(at: datetime, offset: timedelta) -> Iterator[int]:
    """Give the IDs of the windows that hold a time, by looking at each one."""
    for window_id in range(-10, readings.READINGS):
        opens = readings.START + window_id * offset
        if opens <= at < opens + readings.LENGTH:
            yield window_id


def reckoned_of_step(step: str, offset: timedelta) -> Iterator[str]:
    """Reckon the lines of a step: what is in each window, and what came too late for it."""
    held: dict[tuple[str, int], list[tuple[datetime, int]]] = defaultdict(list)
    newest: dict[str, datetime] = {}
    for part in readings.PARTS:
        for number in range(readings.READINGS):
            key, (at, _) = readings.reading(part, number)
            newest[key] = max(at, newest.get(key, at))
            for window_id in windows_at(at, offset):
                if at < newest[key] - readings.WAIT:
                    yield readings.line(step, "late", key, window_id, number)
                else:
                    held[key, window_id].append((at, number))
    for (key, window_id), values in held.items():
        if step == "fold":
            values.sort(key=lambda value: value[0])
        numbers = [number for _, number in values]
        done = len(numbers) if step == "count" else numbers
        opens = readings.START + window_id * offset
        times = [opens.isoformat(), (opens + readings.LENGTH).isoformat()]
        yield readings.line(step, "down", key, window_id, done)
        yield readings.line(step, "meta", key, window_id, times)


def reckoned_of_visits() -> Iterator[str]:
    """Reckon the lines of the sessions: what lies no further apart than the gap is one."""
    held: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    newest: dict[str, datetime] = {}
    for part in readings.PARTS:
        for number in range(readings.READINGS):
            key, (at, _) = readings.reading(part, number)
            newest[key] = max(at, newest.get(key, at))
            if at < newest[key] - readings.WAIT:
                yield readings.line("visits", "late", key, -1, number)
            else:
                held[key].append((at, number))
    for key, values in held.items():
        sessions: list[list[tuple[datetime, int]]] = []
        for at, number in sorted(values, key=lambda value: value[0]):
            if not sessions or at - sessions[-1][-1][0] > readings.GAP:
                sessions.append([])
            sessions[-1].append((at, number))
        assert len(sessions) > 2
        for window_id, session in enumerate(sessions):
            times = [session[0][0].isoformat(), session[-1][0].isoformat()]
            numbers = [number for _, number in session]
            yield readings.line("visits", "down", key, window_id, numbers)
            yield readings.line("visits", "meta", key, window_id, times)


def reckoned() -> Counter[str]:
    """Reckon all lines without Bytewax."""
    steps = {"count": readings.LENGTH, "fold": readings.OFFSET, "collect": readings.LENGTH}
    fixed = (line for step, offset in steps.items() for line in reckoned_of_step(step, offset))
    return Counter(chain(fixed, reckoned_of_visits()))


def written(out: Path) -> Counter[str]:
    return Counter(line for file in out.iterdir() for line in file.read_text().splitlines())


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """What Bytewax without us puts out; what is reckoned equals it."""
    out = tmp_path_factory.mktemp("stock")
    command = [sys.executable, "-m", "bytewax.run", f"{FLOW}:flow"]
    subprocess.run(command, env=environment(OUT=str(out)), check=True, timeout=BOUND_SECONDS)
    lines = written(out)
    assert lines == reckoned()
    assert {line.split(",")[1] for line in lines} == {' "down"', ' "late"', ' "meta"'}
    return lines


def start_two(run, addresses: str, way: str, **env: str) -> list[subprocess.Popen[str]]:
    options = (*OPTIONS, *WAYS[way], "-a", addresses)
    return [run.start(*options, "-i", str(i), file=FLOW, **env) for i in range(2)]


def end_well(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait until both have ended; gives what they said."""
    done = [finished(process) for process in processes]
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    return [each.stderr for each in done]


@pytest.mark.parametrize(("fast", "kind"), [(True, WindowShard), (False, ShardLogic)])
def test_all_windows_of_the_flow_have_a_fast_path(fast, kind):
    """Else the tests below would compare one way with itself."""
    flow = shard_stateful_steps(readings.get_flow(), fast_paths=fast)
    assert kinds_in(flow.substeps) == [kind] * 4


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_put_out_what_stock_does(run, stock, two_addresses, tmp_path, way):
    out = tmp_path / "out"
    end_well(start_two(run, two_addresses, way, OUT=str(out)))
    assert written(out) == stock


@pytest.mark.parametrize(("way", "then"), [("fast", "slow"), ("slow", "fast")])
def test_killed_and_resumed_the_other_way_it_is_the_same(
    run, client, stock, two_addresses, eventually, tmp_path, way, then
):
    """The windows that are open at the kill are restored from what the other way has written."""
    out, held = tmp_path / "out", Sums(client, "readings")

    def is_midstream() -> bool:
        """Whether windows of each step are open in Redis, and lines committed to each file."""
        assert [process.poll() for process in both] == [None, None], [
            finished(process).stderr for process in both
        ]
        if not (held.manifest and held.manifest.processes):
            return False
        lengths = held.state("out")
        return (
            min(held.progress(0), held.progress(1)) > 4
            and all(lengths.get(part) for part in "01")
            and all(has_open_windows(held, step) for step in STEPS)
        )

    # They can't come to the end of their input, however late the kill is.
    hold = {"HOLD": str(readings.READINGS * 3 // 4), "PAUSE": "0.02"}
    both = start_two(run, two_addresses, way, OUT=str(out), **hold)
    eventually(is_midstream)
    for process in both:
        os.killpg(process.pid, signal.SIGKILL)
    for process in both:
        process.communicate(timeout=BOUND_SECONDS)
    again = start_two(run, two_addresses, then, OUT=str(out))
    for said in end_well(again):
        assert "resumed at epoch" in said
    assert held.manifest.generation == 2
    assert written(out) == stock


def has_open_windows(held: Sums, step: str) -> bool:
    return any(windows.logic_states for windows in held.state(step).values())
