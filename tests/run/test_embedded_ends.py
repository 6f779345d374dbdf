"""The embedded server ends under a running flow: the flow has it started again, and goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.embedded import start_embedded
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory, ServerRecord
from tests.conftest import wait_until

from .conftest import Runner, Sums, expected, finished

KEYS = FlowKeys("bytewax", "numbers")
PLENTY = {"ITEMS": "600", "PAUSE": "0.005"}


@pytest.fixture
def embedded(run: Runner, server_binary: Path) -> Iterator[EmbeddedDirectory]:
    """Of the runs of this test."""
    directory = EmbeddedDirectory(run.folder / ".bytewax-redis-state")
    yield directory
    record = directory.read_record()
    if record is not None:
        os.kill(record.keeper, signal.SIGTERM)
    wait_until(lambda: not directory.is_held())


def is_running(directory: EmbeddedDirectory) -> bool:
    """Whether a flow has committed some epochs."""
    record = directory.read_record()
    if record is None:
        return False
    try:
        client = connect(record.config)
    except ServerUnavailableError:  # it has no socket yet
        return False
    manifest = read_manifest(client, KEYS)
    epoch = manifest and client.hget(KEYS.progress(0, manifest.generation), "epoch")
    client.close()
    return int(epoch or 0) > 8


def killed(directory: EmbeddedDirectory, who: str) -> ServerRecord:
    record = directory.read_record()
    assert record is not None
    os.kill(getattr(record, who), signal.SIGKILL)
    return record


@pytest.mark.parametrize("who", ["keeper", "server"])
def test_it_is_started_again_and_the_flow_goes_on(
    run: Runner, embedded: EmbeddedDirectory, who: str
) -> None:
    process = run.start("-s", "0.05", redis=False, **PLENTY)
    wait_until(lambda: is_running(embedded))
    before = killed(embedded, who)
    wait_until(lambda: embedded.read_record() not in (None, before))
    second = killed(embedded, who)
    done = finished(process)
    assert done.returncode == 0, done.stderr
    assert "embedded server ended, starting it again" in done.stderr
    config = start_embedded(embedded.path)
    assert config == before.config == second.config
    assert Sums(connect(config)).state() == expected(600)


def test_nothing_has_to_be_shipped_for_that(run: Runner, embedded: EmbeddedDirectory) -> None:
    """A flow whose sources wait, so that its epochs do not close, keeps its server, too."""
    run.start("-s", "0.05", redis=False, ITEMS="600", PAUSE="3600")
    wait_until(lambda: embedded.read_record() is not None)
    wait_until(lambda: is_leased(embedded))
    before = killed(embedded, "keeper")
    wait_until(lambda: embedded.read_record() not in (None, before))
    wait_until(lambda: is_leased(embedded))


def is_leased(directory: EmbeddedDirectory) -> bool:
    """Whether the flow's replicator renews its lease."""
    record = directory.read_record()
    assert record is not None
    try:
        client = connect(record.config)
    except ServerUnavailableError:
        return False
    held = client.get(KEYS.lease(0)) or b""
    client.close()
    return b'"running"' in held
