"""What a flow needs is taken away while it runs: it goes on, or stops at once and says why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.recovery.replicator import watchdog
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, StatusBoard
from bytewax_redis_state.server.client import connect
from tests.run.conftest import FLOWS, Runner, Sums, finished

from . import starved_run

FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
ENDLESS = {"ITEMS": "1000000", "PAUSE": "0.01"}
MODULE = b"bytewax_redis_state.recovery.replicator.process"


@pytest.fixture
def server(start_redis):
    return start_redis()


@pytest.fixture
def run(server, tmp_path) -> Iterator[Runner]:
    with Runner(server.url, tmp_path) as runner:
        yield runner


@pytest.fixture
def sums(server) -> Iterator[Sums]:
    with connect(RedisConfig(url=server.url)) as client:
        yield Sums(client)


def start(run: Runner, *options: str, **env: str) -> subprocess.Popen[str]:
    where = ("--redis", run.url, "--scratch", str(run.folder / "scratch"))
    script = str(Path(starved_run.__file__))
    env = {"STARVE_NOW": str(run.folder / "starve"), **ENDLESS, **env}
    return run.spawn(sys.executable, script, f"{FLOWS}:flow", *where, *FAST, *options, **env)


def replicator_of(process: subprocess.Popen[str]) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if MODULE in command and os.getpgid(int(entry.name)) == process.pid:
                return int(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def await_progress(process, sums: Sums, eventually) -> None:
    eventually(lambda: process.poll() is not None or (sums.manifest and sums.manifest.processes))
    assert process.poll() is None, process.communicate()
    before = sums.progress()
    eventually(lambda: process.poll() is not None or sums.progress() > before + 3)
    assert process.poll() is None, process.communicate()


def kill_replicator(process) -> None:
    pid = replicator_of(process)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def require_exact_resume(run: Runner, sums: Sums, items: int = 1500) -> None:
    done = run(*FAST, ITEMS=str(items))
    assert done.returncode == 0, done.stderr
    sums.require_sums_of_sources(items)


def kill_and_require_exact_resume(process, run: Runner, sums: Sums) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)
    require_exact_resume(run, sums)


@pytest.mark.parametrize("pattern", ["bytewax-outbox-*", "bytewax-outbox-*/part-0.sqlite3*"])
def test_a_flow_whose_scratch_folder_is_deleted_ends_at_once(run, sums, eventually, pattern):
    """As a cleaner of temporary files does; nothing of what it did from then on would be kept."""
    process = start(run)
    await_progress(process, sums, eventually)
    found = list((run.folder / "scratch").glob(pattern))
    assert found
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = finished(process, 20)
    assert done.returncode == 2, done.stderr
    assert "part-0.sqlite3 is gone while the flow runs" in done.stderr
    assert "keep cleaners of temporary files away" in done.stderr
    require_exact_resume(run, sums)


def test_a_replicator_is_restarted_where_forks_fail_for_a_moment(run, sums, eventually):
    process = start(run, STARVED="fork:3")
    await_progress(process, sums, eventually)
    (run.folder / "starve").touch()
    kill_replicator(process)
    await_progress(process, sums, eventually)
    kill_and_require_exact_resume(process, run, sums)


def test_a_flow_that_gets_no_replicator_any_more_stops_and_says_why(run, sums, eventually):
    process = start(run, STARVED="fork:1000000", SPAWN_SECONDS="1")
    await_progress(process, sums, eventually)
    (run.folder / "starve").touch()
    kill_replicator(process)
    done = finished(process, 30)
    assert done.returncode == 2, done.stderr
    assert "the replicator's process can't be started: [Errno 11]" in done.stderr
    assert "raise the limit on processes" in done.stderr
    require_exact_resume(run, sums)


def test_folding_goes_on_where_a_thread_can_not_be_started_for_a_moment(
    run, sums, start_redis, eventually
):
    """The confirmer's, which is started by the checkpointer once a replica is there."""
    name = "confirmer"
    process = start(run, STARVED=f"thread:{name}:3")
    await_progress(process, sums, eventually)
    (run.folder / "starve").touch()
    host, port = run.url.removeprefix("redis://").removesuffix("/0").split(":")
    with connect(RedisConfig(url=start_redis().url)) as replica:
        replica.replicaof(host, port)
        eventually(lambda: replica.info("replication")["master_link_status"] == "up")
    eventually(lambda: sums.client.info("replication")["connected_slaves"] == 1)
    await_progress(process, sums, eventually)
    folded = sums.applied()
    eventually(lambda: process.poll() is not None or sums.applied() > folded + 5)
    assert process.poll() is None, process.communicate()
    kill_and_require_exact_resume(process, run, sums)


def test_a_thread_that_can_not_be_started_at_all_stops_the_flow(run, sums, eventually):
    process = start(run, STARVED="thread:checkpointer:1000000")
    (run.folder / "starve").touch()
    done = finished(process, 60)
    assert done.returncode == 2, done.stderr
    assert "the thread 'checkpointer' can't be started: can't start new thread" in done.stderr
    require_exact_resume(run, sums)


def kill_and_await_one_that_waits(process, board: StatusBoard, eventually) -> None:
    """Kill the replicator while Redis is away, and wait until another one has met no Redis."""
    killed_at = time.monotonic()
    kill_replicator(process)

    def waits() -> bool:
        status = board.read()
        return status.state is ReplicatorState.AWAY and status.heartbeat > killed_at

    eventually(lambda: process.poll() is not None or waits())
    assert process.poll() is None, process.communicate()


def test_a_replicator_that_dies_while_redis_is_away_waits_for_it(run, server, sums, eventually):
    process = start(run)
    await_progress(process, sums, eventually)
    (folder,) = (run.folder / "scratch").glob("bytewax-outbox-*")
    board = StatusBoard(folder / "status")
    server.kill()
    for _ in range(2):
        kill_and_await_one_that_waits(process, board, eventually)
    server.start()
    await_progress(process, sums, eventually)
    os.killpg(process.pid, signal.SIGKILL)
    assert "redis away" in finished(process).stderr
    require_exact_resume(run, sums)


def test_a_flow_that_ends_while_its_restarted_replicator_waits_for_redis_says_so(
    run, server, sums, eventually
):
    process = start(run, DRAIN_SECONDS="2")
    await_progress(process, sums, eventually)
    (folder,) = (run.folder / "scratch").glob("bytewax-outbox-*")
    server.kill()
    kill_and_await_one_that_waits(process, StatusBoard(folder / "status"), eventually)
    os.kill(process.pid, signal.SIGINT)
    done = finished(process, 40)
    assert "rows not shipped" in done.stderr
    server.start()
    require_exact_resume(run, sums)


def test_the_replicator_runs_no_code_of_the_working_directory(run, sums, eventually):
    trap = "from pathlib import Path\nPath('trapped').touch()\nraise SystemExit(7)\n"
    for name in ("redis.py", "signal.py", "bytewax_redis_state.py"):
        (run.folder / name).write_text(trap)
    process = start(run)
    await_progress(process, sums, eventually)
    assert not (run.folder / "trapped").exists()
    command = Path(f"/proc/{replicator_of(process)}/cmdline").read_bytes().split(b"\0")
    assert (b"-P" in command) == (sys.version_info >= (3, 11))


def test_the_replicator_of_a_python_without_the_option_runs_none_either(tmp_path):
    """The command that Python 3.10 gets, on any Python."""
    (tmp_path / "redis.py").write_text("from pathlib import Path\nPath('trapped').touch()\n")
    command = [sys.executable, "-c", watchdog._LIKE_P, MODULE.decode()]
    done = subprocess.run(command, cwd=tmp_path, input=b"", check=False)
    assert done.returncode == 1  # it got no config
    assert not (tmp_path / "trapped").exists()
