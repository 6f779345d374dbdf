"""Metrics of flows that really run, through both exporters and through Bytewax's own server."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.metrics.opentelemetry import observe
from bytewax_redis_state.metrics.prometheus import expose
from bytewax_redis_state.metrics.table import TABLE
from bytewax_redis_state.recovery.flow_status import flow_statuses

ROOT = Path(__file__).parents[2]
PREFIX = "bytewax_redis_state_"


def summed(items: Iterator[int] | list[int]) -> Dataflow:
    flow = Dataflow("metered")
    stream = op.input("in", flow, TestingSource(items))
    keyed = op.key_on("key", stream, lambda n: str(n % 7))
    sums = op.stateful_map("sum", keyed, lambda total, n: ((total or 0) + n,) * 2)
    op.output("out", sums, TestingSink([]))
    return flow


def read(registry: CollectorRegistry, name: str) -> float | None:
    return registry.get_sample_value(PREFIX + name, {"flow": "metered", "process": "0"})


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    expose(made)
    expose(made)  # again is once
    return made


def test_a_running_flow_shows_every_metric_and_an_ended_one_none(
    redis_url: str, namespace: str, tmp_path: Path, registry: CollectorRegistry
) -> None:
    recovery = RedisRecovery(redis_url, namespace=namespace, scratch=tmp_path)
    for generation in (1, 2):
        with recovery.session(summed(list(range(100)))) as session:
            names = [
                m.name.removeprefix(PREFIX) + ("_total" if m.is_counter else "") for m in TABLE
            ]
            shown = {name: read(registry, name) for name in names}
            assert None not in shown.values(), shown
            assert shown["generation"] == generation
            assert shown["resumed_keys"] == (0 if generation == 1 else 8)  # 7 sums, 1 source
            assert shown["replicator_silence_seconds"] < 3
            run_main(
                session.flow,
                epoch_interval=timedelta(0),
                recovery_config=session.recovery_config,
            )
        assert read(registry, "generation") is None
        assert flow_statuses() == []


def test_redis_away_and_held_sources_show_while_they_last(
    start_redis: Callable[..., object],
    namespace: str,
    tmp_path: Path,
    registry: CollectorRegistry,
    eventually: Callable[..., None],
) -> None:
    server = start_redis()
    recovery = RedisRecovery(server.url, namespace=namespace, scratch=tmp_path, max_lag=2000)
    done = threading.Event()
    seen: list[str] = []

    def watch() -> None:
        eventually(lambda: (read(registry, "shipped_rows_total") or 0) > 0)
        server.kill()
        eventually(lambda: read(registry, "redis_away") == 1)
        eventually(lambda: read(registry, "sources_held") == 1)
        seen.append("held")
        server.start()
        eventually(lambda: read(registry, "redis_away") == 0)
        eventually(lambda: read(registry, "sources_held") == 0)
        seen.append("free")

    def watch_then_end() -> None:
        try:
            watch()
        finally:
            done.set()

    def endless() -> Iterator[int]:
        number = 0
        while not done.wait(0.002):
            number += 1
            yield number

    watcher = threading.Thread(target=watch_then_end)
    with recovery.session(summed(_Endless(endless))) as session:
        watcher.start()
        run_main(
            session.flow,
            epoch_interval=timedelta(milliseconds=20),
            recovery_config=session.recovery_config,
        )
    watcher.join()
    assert seen == ["held", "free"]


class _Endless:
    """An iterable that TestingSource may slice."""

    def __init__(self, make: Callable[[], Iterator[int]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[int]:
        return self._make()


def test_a_killed_replicator_is_counted(
    redis_url: str,
    namespace: str,
    tmp_path: Path,
    registry: CollectorRegistry,
    eventually: Callable[..., None],
) -> None:
    recovery = RedisRecovery(redis_url, namespace=namespace, scratch=tmp_path)
    with recovery.session(summed([1])) as session:
        assert read(registry, "replicator_restarts_total") == 0
        assert session.replicator_pid is not None
        os.kill(session.replicator_pid, signal.SIGKILL)
        eventually(lambda: read(registry, "replicator_restarts_total") == 1)
        run_main(session.flow, recovery_config=session.recovery_config)


def test_opentelemetry_gets_the_same_values(redis_url: str, namespace: str, tmp_path: Path) -> None:
    reader = InMemoryMetricReader()
    observe(MeterProvider(metric_readers=[reader]).get_meter("test"))
    recovery = RedisRecovery(redis_url, namespace=namespace, scratch=tmp_path)
    with recovery.session(summed([1])) as session:
        data = reader.get_metrics_data()
        assert data is not None
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        points = {m.name: m.data.data_points[0] for m in metrics}
        assert points.keys() == {metric.name for metric in TABLE}
        assert points[f"{PREFIX}generation"].value == 1
        assert points[f"{PREFIX}generation"].attributes == {"flow": "metered", "process": "0"}
        run_main(session.flow, recovery_config=session.recovery_config)


FLOW = """
import time
import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

class Slow:
    def __iter__(self):
        for n in range(10_000):
            time.sleep(0.01)
            yield n

flow = Dataflow("metered")
keyed = op.key_on("key", op.input("in", flow, TestingSource(Slow(), 1)), str)
op.output("out", op.stateful_map("sum", keyed, lambda s, n: (n, n)), TestingSink([]))
"""


def test_the_runner_shows_them_beside_those_of_bytewax(
    redis_url: str, namespace: str, tmp_path: Path, free_port: int, eventually: Callable[..., None]
) -> None:
    (tmp_path / "metered.py").write_text(FLOW)
    options = ("--redis", redis_url, "--namespace", namespace, "-s", "0.1")
    process = subprocess.Popen(
        [sys.executable, "-m", "bytewax_redis_state.run", str(tmp_path / "metered.py"), *options],
        env={
            **os.environ,
            "BYTEWAX_DATAFLOW_API_ENABLED": "1",
            "BYTEWAX_DATAFLOW_API_PORT": str(free_port),
        },
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,  # where Bytewax's server leaves a drawing of the flow
    )

    def scrape() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics") as answer:
                return answer.read().decode()
        except OSError:
            return ""

    shipped = re.compile(rf'{PREFIX}shipped_rows_total{{flow="metered",process="0"}} ([1-9][\d.]*)')
    try:
        eventually(lambda: shipped.search(scrape()))
        # As the page says: Bytewax's server listens on all addresses.
        socket.create_connection(("127.0.0.2", free_port), BOUND_SECONDS).close()
    finally:
        process.terminate()
        assert process.wait(BOUND_SECONDS) == 130


def test_they_are_served_to_this_machine_only_as_the_page_says(
    redis_url: str, namespace: str, tmp_path: Path, free_port: int, eventually: Callable[..., None]
) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = code.replace("9100", str(free_port))
    assert str(free_port) in code
    (tmp_path / "metered.py").write_text(code + FLOW)
    options = ("--redis", redis_url, "--namespace", namespace, "-s", "0.1")
    process = subprocess.Popen(
        [sys.executable, "-m", "bytewax_redis_state.run", str(tmp_path / "metered.py"), *options],
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )

    def scrape() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics") as answer:
                return answer.read().decode()
        except OSError:
            return ""

    try:
        eventually(lambda: f'{PREFIX}generation{{flow="metered",process="0"}} 1.0' in scrape())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", free_port), BOUND_SECONDS)
    finally:
        process.terminate()
        assert process.wait(BOUND_SECONDS) == 130


def test_the_page_names_each_metric_and_no_other(registry: CollectorRegistry) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    described = dict(re.findall(rf"^\| `({PREFIX}\w+)` \| (.*) \|$", page, re.MULTILINE))
    text = generate_latest(registry).decode()
    exported = dict(re.findall(rf"^# HELP ({PREFIX}\w+) (.*)\.$", text, re.MULTILINE))
    assert {name: said.lower() for name, said in described.items()} == {
        name: said.lower() for name, said in exported.items()
    }
