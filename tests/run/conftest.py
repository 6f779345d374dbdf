"""Runs of the runner in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typing_extensions import Self

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.client import Client
from tests.conftest import wait_until

FLOWS = Path(__file__).parent / "flows.py"


def environment(**extra: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("BYTEWAX_", "RUST_"))}
    return plain | {"PYTHONFAULTHANDLER": "1"} | extra


@dataclass
class Runner:
    """Starts ``python -m bytewax_redis_state.run`` in a folder of the test's own."""

    url: str
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(
        self,
        *options: str,
        file: Path = FLOWS,
        flow: str = "flow",
        redis: bool = True,
        stderr: int = subprocess.PIPE,
        **env: str,
    ) -> subprocess.Popen[str]:
        where = ("--redis", self.url) if redis else ()
        fixed = ("--scratch", str(self.folder / "scratch")) if "--scratch" not in options else ()
        command = [sys.executable, "-m", "bytewax_redis_state.run", f"{file}:{flow}"]
        return self.spawn(*command, *where, *fixed, *options, stderr=stderr, **env)

    def spawn(
        self,
        *command: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        **env: str,
    ):
        """Start any command as a flow is started: it is ended with the test."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*options, **more)
        return finished(process)


def finished(process: subprocess.Popen[str], timeout: float = BOUND_SECONDS):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it hangs
        try:
            _out, err = process.communicate(timeout=10)
        except subprocess.TimeoutExpired as still:
            err = f"it is gone, and somebody else holds its output: {still.stderr!r}"
        pytest.fail(f"it does not end within {timeout} s:\n{err}")
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Iterator[Runner]:
    with Runner(redis_url, tmp_path) as runner:
        yield runner


class Sums:
    """What Redis holds of a flow of ``flows.py``."""

    def __init__(self, client: Client, flow_id: str = "numbers", namespace: str = "bytewax"):
        self.client = client
        self.keys = FlowKeys(namespace, flow_id)
        self.namespace = namespace

    @property
    def manifest(self):
        return read_manifest(self.client, self.keys)

    def state(self, step: str = "sum", codec: Codec | None = None) -> dict[str, object]:
        names = {"namespace": self.namespace, "flow_id": self.keys.flow_id, "step": step}
        bound = (codec or Codec()).bind(**names)
        found = {}
        for key in self.client.scan_iter(self.keys.state_pattern, 1000):
            at = self.keys.parse_state(key)
            if at[0] == step:
                found[at[2]] = bound.decode(at[2], self.client.get(key))
        return found

    def progress(self, partition: int = 0) -> int:
        key = self.keys.progress(partition, self.manifest.generation)
        return int(self.client.hget(key, "epoch") or 0)

    def applied(self, step: str = "sum", shard: int = 0) -> int:
        """The applied epoch of a cell of a flow with one process."""
        epoch, lane = self.client.hmget(self.keys.applied(step, shard), "epoch", "p0")
        return max(int(epoch), int(lane or 0))

    def leases(self) -> list[bytes]:
        return [key for key in self.client.scan_iter() if b":lease:" in key]

    def require_sums_of_sources(self, items: int, codec: Codec | None = None) -> None:
        """Require what the sources have given, each item once, where a run was killed ahead.

        :arg items: What every source has given at least.
        :arg codec: Of the flow.
        """
        given = self.state("in", codec).values()
        assert min(given) >= items
        due = Counter()
        for number in given:
            due.update(expected(number, parts=1))
        assert self.state(codec=codec) == due


def kill_and_resume(
    run: Runner, sums: Sums, *options: str, items: int, epochs: int
) -> subprocess.CompletedProcess[str]:
    """Kill a flow in midstream, resume it, and require that all is there; gives the killed run."""
    process = run.start(*options, ITEMS="3000", PAUSE="0.01")
    wait_until(lambda: sums.manifest and sums.manifest.processes and sums.progress() > epochs)
    os.killpg(process.pid, signal.SIGKILL)
    killed = finished(process)
    done = run(*options, ITEMS=str(items))
    assert done.returncode == 0, done.stderr
    sums.require_sums_of_sources(items)
    return killed


@pytest.fixture
def sums(client: Client) -> Sums:
    return Sums(client)


def expected(items: int, parts: int = 2) -> dict[str, int]:
    """The sums of all numbers up to ``items``, once for each partition."""
    result: dict[str, int] = {}
    for number in range(1, items + 1):
        result[f"k{number % 5}"] = result.get(f"k{number % 5}", 0) + parts * number
    return result


@pytest.fixture
def dump(client: Client) -> Callable[[], Mapping[bytes, bytes | None]]:
    """Everything in Redis but leases."""

    def dump() -> dict[bytes, bytes | None]:
        return {key: client.dump(key) for key in client.scan_iter() if b":lease:" not in key}

    return dump
