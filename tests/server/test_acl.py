"""The rules of ``doctor --acl``, used: the whole path under them, and nothing in them unused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.cluster import read_manifest
from bytewax_redis_state.recovery.lease import this_owner
from bytewax_redis_state.server.acl import COMMANDS, acl_rules
from tests.run.conftest import Runner, finished

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
KEYS = FlowKeys("bytewax", "visitors")
FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
# Idle keys outlive the stops here, and each stop is more than half of the allowance.
OPTIONS = (*FAST, "--window-grace", "60s", "--downtime-allowance", "1s")


def rules(*options: str) -> list[str]:
    """As the command prints them."""
    done = subprocess.run(
        [SCRIPT, "doctor", "--acl", *options, "--json"], capture_output=True, check=True
    )
    return json.loads(done.stdout)["rules"]


@pytest.fixture
def server(start_redis):
    return start_redis()


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url) as client:
        yield client


def user(server, admin, name: str, given: list[str]) -> str:
    admin.execute_command("ACL", "SETUSER", name, *given, ">sesame")
    return f"redis://{name}:sesame@127.0.0.1:{server.port}/1"


def used(admin) -> set[str]:
    names = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    # Redis 6.2 counts a command without its subcommand.
    return names | {name.partition("|")[0] for name in names}


def denied(admin) -> list[str]:
    """What was refused, but for what the client library sends and can do without."""
    objects = [entry["object"] for entry in admin.acl_log()]
    return [name for name in objects if name != "client|setinfo"]


def whole_path(url: str, folder: Path, admin) -> None:
    """Windows, retention, sources; a SIGKILL, a resume, two threads, a step that is dropped."""
    run = Runner(url, folder, [])
    try:
        for workers in ("1", "2"):
            process = run.start(
                *OPTIONS, "-w", workers, flow="visitors()", OPEN="60", VISITORS="200"
            )
            wait_for_epochs(admin, process)
            os.killpg(process.pid, signal.SIGKILL)
            finished(process)
            time.sleep(0.8)  # a downtime of more than half the allowance: expiries are moved on
        done = run(*OPTIONS, "--retention", "seen=1s", flow="visitors()", OPEN="3", VISITORS="200")
        assert done.returncode == 0, done.stderr
    finally:
        for process in run.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_epochs(admin, process) -> None:
    other = redis.Redis.from_url(admin_url(admin))
    first, end = None, time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        manifest = read_manifest(other, KEYS)
        if manifest is not None and manifest.processes:
            epoch = int(other.hget(KEYS.progress(0, manifest.generation), "epoch") or 0)
            first = (manifest.generation, epoch) if first is None else first
            if manifest.generation != first[0]:
                first = (manifest.generation, epoch)
            if epoch > first[1] + 10:
                return
        time.sleep(0.05)
    pytest.fail("the flow never got there")


def admin_url(admin) -> str:
    options = admin.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/1"


def test_a_runner_needs_its_rules_and_nothing_else(server, admin, tmp_path):
    url = user(server, admin, "runner", rules("runner", "--flow", "visitors"))
    admin.config_resetstat()
    whole_path(url, tmp_path, admin)
    assert denied(admin) == []
    needless = {c for c in COMMANDS["runner"] if c not in used(admin)}
    assert needless == set()


def test_a_doctor_needs_its_rules_and_changes_nothing(server, admin, tmp_path):
    whole_path(f"redis://127.0.0.1:{server.port}/1", tmp_path, admin)
    url = user(server, admin, "doctor", rules("doctor", "--flow", "visitors"))
    with redis.Redis.from_url(admin_url(admin)) as client:  # of somebody who was taken over
        client.set(KEYS.lease(7), this_owner(7, "other", {}).to_json(), px=60_000)
    admin.config_resetstat()
    done = subprocess.run(
        [SCRIPT, "doctor", "--verify", "visitors", "--redis", url], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert denied(admin) == []
    needless = {c for c in COMMANDS["doctor"] if c not in used(admin)}
    assert needless == set()
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.set(KEYS.manifest, b"mine")


def test_a_runner_reaches_no_other_flow(server, admin):
    url = user(server, admin, "runner", acl_rules("runner", "bytewax", "a"))
    with redis.Redis.from_url(url) as client:
        client.set(FlowKeys("bytewax", "a").manifest, b"x")
        client.set(FlowKeys("bytewax", "a").state("sum", 3, "k"), b"x")
        for foreign in (FlowKeys("bytewax", "ab"), FlowKeys("b", "a"), FlowKeys("bytewax", "a*")):
            for key in (foreign.manifest, foreign.state("sum", 3, "k"), foreign.journal(0, 1)):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.set(key, b"x")


def test_a_runner_of_a_namespace_reaches_all_its_flows(server, admin):
    url = user(server, admin, "runner", acl_rules("runner", "team[1]"))
    with redis.Redis.from_url(url) as client:
        client.set(FlowKeys("team[1]", "a").manifest, b"x")
        client.set(FlowKeys("team[1]", "b").journal(0, 1), b"x")
        for foreign in (FlowKeys("team1", "a"), FlowKeys("team[1]x", "a")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set(foreign.manifest, b"x")


def test_durability_adds_what_it_asks_for():
    assert "+wait" in rules("runner", "--durability", "replicas:2")
    assert "+waitaof" in rules("runner", "--durability", "aof")
    assert not any("wait" in rule for rule in rules("runner"))


def test_people_get_a_command():
    done = subprocess.run(
        [SCRIPT, "doctor", "--acl", "doctor", "--user", "eve", "--namespace", "shop"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ACL SETUSER eve reset on ~shop:{* +client|setname ")
    assert done.stdout.endswith(" >PASSWORD\n")
