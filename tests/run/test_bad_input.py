"""Bad input, each in one line with what to do: code 2, no traceback, nothing written."""

from __future__ import annotations

import subprocess

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.server.client import connect

from .conftest import finished

FAST = ("-s", "0.1")
OURS = "bytewax-redis-state: error: "


def refused(done: subprocess.CompletedProcess[str], *said: str) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith(OURS)]
    others = [
        line for line in done.stderr.splitlines() if not line.startswith("bytewax-redis-state: ")
    ]
    assert len(errors) == 1, done.stderr
    assert others == [], done.stderr
    assert "; " in errors[0], "no word on what to do"
    for words in said:
        assert words in errors[0]
    assert done.stdout == ""
    return errors[0]


_full: dict[bytes, bytes] = {}


@pytest.fixture
def full(run, sums, client):
    """A flow that has run to its end; run once, copied for each test."""
    if not _full:
        done = run(*FAST)
        assert done.returncode == 0, done.stderr
        _full.update({key: client.dump(key) for key in client.scan_iter()})
    else:
        for key, value in _full.items():
            client.restore(key, 0, value)
    assert sums.state()
    return sums


def test_redis_that_can_not_be_reached(run, free_port):
    refused(run("--redis", f"redis://127.0.0.1:{free_port}", redis=False), f":{free_port}", "try")


@pytest.mark.parametrize("password", ["", ":wr0ng-s3cret@"])
def test_a_wrong_password(run, start_redis, password):
    server = start_redis("--requirepass", "r1ght-s3cret")
    url = f"redis://{password}127.0.0.1:{server.port}"
    line = refused(run("--redis", url, redis=False), "password in the URL")
    assert "s3cret" not in line


@pytest.mark.parametrize("url", ["redis://u:s3cret@localhost:port", "nonsense", "http://s3cret@h"])
def test_a_url_that_does_not_parse(run, url):
    assert "s3cret" not in refused(run("--redis", url, redis=False), "write it as redis://")


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_may_evict_any_key(run, start_redis, policy):
    server = start_redis("--maxmemory-policy", policy)
    refused(run("--redis", server.url, redis=False), policy, "noeviction")
    assert connect(RedisConfig(url=server.url)).keys() == []


def test_a_server_that_may_evict_keys_with_a_deadline(run, start_redis):
    server = start_redis("--maxmemory-policy", "volatile-lru")
    done = run(*FAST, "--redis", server.url, redis=False)
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert "volatile-lru" in done.stderr


def test_a_flow_of_a_newer_format(run, full, dump, client):
    client.hset(full.keys.manifest, "format", 99)
    before = dump()
    refused(run(*FAST), "format 99", "upgrade")
    assert dump() == before


def test_another_number_of_shards(run, full, dump):
    before = dump()
    refused(run(*FAST, "--shards", "32"), "64 shards, not 32", "run it with 64 shards")
    assert dump() == before


@pytest.mark.parametrize("shards", ["0", "5000"])
def test_a_number_of_shards_that_can_not_be(run, dump, shards):
    refused(run("--shards", shards), "shards is " + shards)
    assert dump() == {}


def test_a_step_that_vanished(run, full, dump):
    before = dump()
    done = run(*FAST, flow="get_flow(step='total')")
    refused(done, "step 'sum'", "--drop-step sum", "--rename-step sum=NEW")
    assert dump() == before


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--drop-step", "sum"), "the flow still has this step"),
        (("--rename-step", "sum=none"), "no step 'none'"),
        (("--drop-partition", "in"), "is not STEP:PARTITION"),
        (("--drop-step", "x", "--rename-step", "x=sum"), "both name 'x'"),
    ],
)
def test_a_drop_or_rename_of_what_is_not_there(run, full, dump, option, said):
    before = dump()
    refused(run(*FAST, *option), said)
    assert dump() == before


def test_a_source_partition_that_is_no_longer_listed(run, full, dump):
    before = dump()
    refused(run(*FAST, PARTS="b"), "partition 'a' of step 'in'", "--drop-partition in:a")
    assert dump() == before


def test_a_flow_that_runs_elsewhere(run, sums, dump, eventually):
    """Rule 5a: where and since when."""
    first = run.start(*FAST, ITEMS="100000", PAUSE="0.05")
    eventually(lambda: sums.leases() and sums.manifest)
    eventually(lambda: sums.progress() > 1)
    lines = refused(
        run(*FAST), "is already running", f"(pid {first.pid})", "since 2", "--take-over"
    )
    assert "on host" in lines
    assert sums.manifest.generation == 1
    assert first.poll() is None


def test_stock_recovery_set_as_well(run, dump):
    done = run(*FAST, BYTEWAX_RECOVERY_DIRECTORY="/some/where")
    refused(done, "BYTEWAX_RECOVERY_DIRECTORY", "unset the variable")
    assert dump() == {}


def test_several_processes_without_a_url(run):
    done = run("-i", "0", "-a", "localhost:1;localhost:2", redis=False)
    refused(done, "2 processes", "--redis URL")
    assert not (run.folder / ".bytewax-redis-state").exists()


def test_a_process_that_never_joins(run, sums, dump, two_addresses):
    options = ("-a", two_addresses, "--join-timeout", "1")
    refused(run(*FAST, "-i", "0", *options), "process 1 ", "has not joined", "start all processes")
    refused(run(*FAST, "-i", "1", *options), "process 0 ", "has not joined", "start all processes")
    assert dump() == {}
    assert sums.leases() == []


def test_processes_that_have_fast_paths_and_such_that_have_none(run, sums, dump, two_addresses):
    options = (*FAST, "-a", two_addresses, "--join-timeout", "2")
    both = [run.start("-i", "0", *options), run.start("-i", "1", *options, "--no-fast-paths")]
    hint = "equal flows, -w, -a and --no-fast-paths"
    refused(finished(both[0]), "process 1 ", "has not joined", hint)
    refused(finished(both[1]), "process 0 ", hint)
    assert dump() == {}
    assert sums.leases() == []


@pytest.mark.parametrize("kind", ["file", "/proc/none"])
def test_a_scratch_folder_that_can_not_be_written(run, dump, tmp_path, kind):
    (tmp_path / "file").write_text("")
    refused(run(*FAST, "--scratch", str(tmp_path / kind)), kind, "--scratch")
    assert dump() == {}


def test_a_scratch_folder_that_is_too_small(run, dump, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs rights that this run lacks")
    try:
        refused(run(*FAST, "--scratch", str(small)), "1 MiB free, 64 MiB are needed", "--scratch")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert dump() == {}


def test_an_old_sqlite(run, dump, tmp_path):
    # The library that is linked in can't be exchanged: the number is what we can change.
    (tmp_path / "sitecustomize.py").write_text(
        "import sqlite3\n"
        "sqlite3.sqlite_version_info = (3, 36, 0)\n"
        "sqlite3.sqlite_version = '3.36.0'\n"
    )
    refused(run(*FAST, PYTHONPATH=str(tmp_path)), "3.36.0", "newer SQLite")
    assert dump() == {}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_value_that_fails_its_check(run, full, dump, client, workers):
    key = full.keys.state("sum", shard_of("k3", 64), "k3")
    client.set(key, client.get(key)[:-1] + b"!")
    refused(run(*FAST, "-w", workers, ITEMS="50"), key.decode(), "savepoint")


def test_a_pickle_that_is_not_allowed(run, client):
    assert run(*FAST, flow="pickled").returncode == 0
    done = run(*FAST, "--no-pickle", flow="pickled", ITEMS="50")
    assert done.returncode == 2
    assert "its value is a pickle" in done.stderr


def test_a_key_that_redis_lost(run, full, dump, client):
    """Rule 10: absence is an error."""
    client.delete(full.keys.state("sum", shard_of("k3", 64), "k3"))
    refused(run(*FAST), "step 'sum' has 0 keys", "backup")


def test_a_manifest_that_redis_lost(run, full, dump, client):
    """Rule 10: a missing manifest beside other keys of the flow names one."""
    client.delete(full.keys.manifest)
    before = dump()
    refused(run(*FAST), "no manifest", "bytewax:{numbers", "backup")
    assert dump() == before


@pytest.mark.parametrize(
    ("flow", "said"),
    [("nothing", "Failed to find attribute 'nothing'"), ("ITEMS", "A valid Bytewax dataflow")],
)
def test_a_flow_that_is_not_there(run, dump, flow, said):
    refused(run(flow=flow), said)
    assert dump() == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-i", "0"), "-i 0 is given without -a"),
        (("-i", "2", "-a", "localhost:1;localhost:2"), "-i is 2"),
        (("-w", "0"), "0 workers"),
        (("--checkpoint-interval", "0"), "checkpoint_interval"),
    ],
)
def test_places_and_numbers_that_can_not_be(run, dump, options, said):
    refused(run(*options), said)
    assert dump() == {}


@pytest.mark.parametrize(
    "options", [("-s", "soon"), ("--rename-step", "a"), ("--shards", "many"), ("--nonsense",)]
)
def test_an_option_that_does_not_parse_shows_the_usage(run, dump, options):
    done = run(*options)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert dump() == {}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_users_own_mistake_keeps_its_traceback(run, sums, workers):
    done = run(*FAST, "-w", workers, FAIL_AT="20", PAUSE="0.02")
    assert done.returncode == 1
    assert "ValueError: the user's own mistake" in done.stderr
    assert "flows.py" in done.stderr
    assert sums.leases() == []
    # What was committed before is shipped and applied; the rest is replayed.
    assert run(*FAST).returncode == 0
