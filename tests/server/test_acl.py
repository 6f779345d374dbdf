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

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.lease import this_owner
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.server.acl import COMMANDS, acl_rules
from bytewax_redis_state.server.client import connect
from tests.run.conftest import Runner, Sums, finished, kill_and_resume

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
    with Runner(url, folder) as run:
        for workers in ("1", "2"):
            process = run.start(
                *OPTIONS, "-w", workers, flow="visitors()", OPEN="60", VISITORS="200"
            )
            wait_for_epochs(admin, process)
            os.killpg(process.pid, signal.SIGKILL)
            finished(process)
            with redis.Redis.from_url(admin_url(admin)) as other:
                # As DUMP and RESTORE leave it: the next start gives it an expiry.
                assert other.persist(KEYS.lease(0))
            time.sleep(0.8)  # a downtime of more than half the allowance: expiries are moved on
        done = run(*OPTIONS, "--retention", "seen=1s", flow="visitors()", OPEN="3", VISITORS="200")
        assert done.returncode == 0, done.stderr


def wait_for_epochs(admin, process) -> None:
    other = redis.Redis.from_url(admin_url(admin))
    first, end = None, time.monotonic() + BOUND_SECONDS
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


def test_a_reader_reads_all_that_it_needs_and_nothing_else(server, admin, tmp_path):
    whole_path(f"redis://127.0.0.1:{server.port}/1", tmp_path, admin)
    for scope in (("--flow", "visitors"), ()):
        url = user(server, admin, "reader", rules("reader", *scope))
        admin.config_resetstat()
        with redis.Redis.from_url(url, client_name="reader") as client:
            read_all(client)
            assert denied(admin) == []
            assert {c for c in COMMANDS["reader"] if c not in used(admin)} == set()
            for kept in (KEYS.lease(0), KEYS.generation, KEYS.progress(0, 3)):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.get(kept)
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.xrange(KEYS.journal(0, 3))
        assert changes_allowed(admin, "reader") == set()
        admin.execute_command("ACL", "LOG", "RESET")


def read_all(client) -> None:
    """Read what a reader of state has to, by plain commands."""
    assert (client.ping(), client.info()["role"], len(client.time())) == (True, "master", 2)
    manifest = read_manifest(client, KEYS)
    total = 0
    for step in manifest.steps:
        codec = Codec().bind(namespace="bytewax", flow_id="visitors", step=step)
        for shard in range(manifest.shards):
            cell = client.hgetall(KEYS.applied(step, shard))
            prefix = KEYS.state_prefix(step, shard)
            names = list(client.scan_iter(match=prefix + b"*", count=10_000))
            values = client.mget(names) if names else []
            for name, value in zip(names, values, strict=True):
                codec.decode(name[len(prefix) :].decode(), value)
            assert len(names) == int(cell[b"count"])
            total += len(names)
    assert total > 200
    assert client.get(KEYS.state("in", shard_of("all", 64), "all"))


def changes_allowed(admin, name: str) -> set[str]:
    """Which commands that write, run scripts or administer the server let a user through."""
    allowed = set()
    for command, about in admin.command().items():
        flags = set(about["flags"])
        if not flags & {"write", "admin", "noscript", "pubsub", "movablekeys"}:
            continue
        arity = abs(about["arity"])
        arguments = [KEYS.manifest] * (arity - 1)
        verdict = admin.execute_command("ACL", "DRYRUN", name, command, *arguments)
        if verdict in (b"OK", "OK"):
            allowed.add(command)
    # Of connections, not of data: AUTH, HELLO, RESET and QUIT are open to everybody.
    return allowed - {"auth", "hello", "reset", "quit"}


def test_who_may_change_things_would_be_seen(server, admin):
    user(server, admin, "runner", acl_rules("runner", "bytewax"))
    assert {"set", "evalsha", "xadd"} <= changes_allowed(admin, "runner")


def test_a_reader_of_one_flow_reads_no_other(server, admin):
    url = user(server, admin, "reader", acl_rules("reader", "bytewax", "a"))
    with redis.Redis.from_url(url) as client:
        for flow in ("ab", "a*", "b"):
            foreign = FlowKeys("bytewax", flow)
            for key in (foreign.manifest, foreign.state("sum", 3, "k"), foreign.applied("sum", 3)):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.get(key)
        # A state key may hold anything, also what looks like the end of another key.
        assert client.get(FlowKeys("bytewax", "a").state("sum", 3, "k}:lease:0")) is None


def test_a_cluster_adds_what_its_client_sends(server, admin):
    plain = rules("runner")
    added = set(rules("runner", "--redis", "redis+cluster://h:1")) - set(plain)
    assert added == {"+asking", "+cluster|slots"}
    assert rules("runner", "--redis", "redis+sentinel://h:1/s") == plain


def test_durability_adds_what_it_asks_for():
    assert "+wait" in rules("runner", "--durability", "replicas:2")
    assert "+waitaof" in rules("runner", "--durability", "aof")
    assert "+waitaof" not in rules("runner")


def test_people_get_a_command():
    done = subprocess.run(
        [SCRIPT, "doctor", "--acl", "doctor", "--user", "eve", "--namespace", "shop"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ACL SETUSER eve reset on ~shop:{* +client|setname ")
    assert done.stdout.endswith(" >PASSWORD\n")


@pytest.mark.long
def test_a_runner_of_a_cluster_needs_what_is_printed(shared_cluster, tmp_path):
    given = rules("runner", "--flow", "numbers", "--redis", shared_cluster.url)
    admins = [redis.Redis.from_url(f"redis://{node.address}") for node in shared_cluster.nodes]
    for node in admins:
        node.execute_command("ACL", "SETUSER", "clustered", *given, ">sesame")
        node.acl_log_reset()
    try:
        with Runner(shared_cluster.url.replace("://", "://clustered:sesame@"), tmp_path) as run:
            with connect(RedisConfig(url=shared_cluster.url)) as client:
                sums = Sums(client)
                kill_and_resume(run, sums, *FAST, items=300, epochs=12)
            assert [name for node in admins for name in denied(node)] == []
    finally:
        for node in admins:
            node.acl_deluser("clustered")
            node.close()


@pytest.mark.parametrize(("level", "flavour"), [("aof", "valkey-8"), ("replicas:1", "redis-7.0")])
def test_a_runner_that_wants_durability_needs_what_is_printed(
    start_group, tmp_path, level, flavour
):
    group = start_group("sentinel", flavour, replicas=1)
    primary = group.primary
    given = rules("runner", "--flow", "numbers", "--durability", level)
    primary.client.execute_command("ACL", "SETUSER", "durable", *given, ">sesame")
    primary.client.config_resetstat()
    options = (*FAST, "--durability", level)
    with Runner(f"redis://durable:sesame@{primary.address}/0", tmp_path) as run:
        sums = Sums(primary.client)
        kill_and_resume(run, sums, *options, items=200, epochs=8)
    assert denied(primary.client) == []
    assert {"wait", "waitaof"} & used(primary.client) >= {"waitaof" if level == "aof" else "wait"}
