"""``doctor --verify``: a sound flow has no finding, and each kind of damage is found and named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bytewax_redis_state.doctor.findings import KEPT_PER_KIND
from bytewax_redis_state.doctor.verification import Verification, verify
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.manifest import read_manifest
from tests.run.conftest import finished
from tests.run.conftest import run as run
from tests.run.test_retention import wait_for

DOCUMENT = Path(__file__).parents[2] / "docs" / "doctor.md"
SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
KEYS = FlowKeys("bytewax", "visitors")
OPTIONS = ("-s", "0.1", "--checkpoint-interval", "0.5")
WHERE = {"OPEN": "30", "VISITORS": "200"}


def check(client) -> Verification:
    return verify(client, KEYS)


def problems(found: Verification) -> list[tuple[str, str]]:
    return [(f.severity, f.what) for f in found.findings if f.severity != "note"]


@pytest.fixture
def killed(run, client):
    """A flow with windows, a retention and a source, killed while it ran."""
    process = run.start(*OPTIONS, "-w", "2", flow="visitors()", **WHERE)
    wait_for(lambda: read_manifest(client, KEYS) and progress(client) > 12)
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)
    return client


def progress(client) -> int:
    generation = read_manifest(client, KEYS).generation
    return int(client.hget(KEYS.progress(0, generation), "epoch") or 0)


def a_state(client, step: str = "seen") -> bytes:
    return min(k for k in client.scan_iter(KEYS.state_pattern) if KEYS.parse_state(k)[0] == step)


def test_a_flow_is_sound_while_it_runs_and_when_it_was_killed(run, client):
    process = run.start(*OPTIONS, flow="visitors()", **WHERE)
    wait_for(lambda: read_manifest(client, KEYS) and progress(client) > 3)
    for _ in range(10):
        found = check(client)
        assert problems(found) == []
    assert any(": process 0 on host" in f.what for f in found.findings)
    wait_for(lambda: progress(client) > 12)
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)
    found = check(client)
    assert problems(found) == []
    assert found.keys["seen"] > 0
    assert set(found.keys) == set(read_manifest(client, KEYS).steps)


def test_it_writes_nothing(killed):
    def everything():
        return {k: killed.dump(k) for k in killed.scan_iter() if b":lease:" not in k}

    before = everything()
    check(killed)
    assert everything() == before


def test_a_flow_nobody_knows(client):
    found = check(client)
    assert found.manifest is None
    assert found.findings == []


def lose_a_state(client):
    client.delete(a_state(client))
    return "keys, but its count says"


def flip_a_byte(client):
    key = a_state(client)
    value = bytearray(client.get(key))
    value[-1] ^= 1
    client.set(key, bytes(value))
    return f"the value of {key.decode()!r} is damaged"


def swap_two_values(client):
    first, second = sorted(client.scan_iter(KEYS.state_pattern))[:2]
    client.set(first, client.get(second))
    return f"the value of {first.decode()!r} is damaged"


def lose_a_cell(client):
    client.delete(KEYS.applied("seen", 3))
    return "shard 3 of step 'seen' is missing"


def change_a_count(client):
    step, shard, _ = KEYS.parse_state(a_state(client))
    client.hincrby(KEYS.applied(step, shard), "count", 1)
    return f"shard {shard} of step 'seen' has"


def change_a_deadline(client):
    _, shard, _ = KEYS.parse_state(a_state(client, "visit"))
    key = KEYS.applied("visit", shard)
    client.hset(key, "d9999999999999", 3)
    client.hsetnx(key, "slack", 10**14)
    return "has keys with other deadlines than it has counted"


def lose_the_manifest(client):
    client.delete(KEYS.manifest)
    return "the flow has keys but no manifest"


def lose_a_manifest_field(client):
    client.hdel(KEYS.manifest, "steps")
    return f"the field 'steps' of {KEYS.manifest.decode()!r} is missing"


def set_the_counter_back(client):
    client.set(KEYS.generation, 0)
    return "the generation counter stands at 0, but the manifest is of 1"


def give_the_number_again(client):
    client.set(KEYS.generation, "1-another")
    return "the generation counter is of start another of generation 1"


def take_the_partition(client):
    client.hset(KEYS.progress(0, 1), "generation", "1-another")
    return "is of generation 1-another, not 1-"


def take_a_cell(client):
    client.hset(KEYS.applied("seen", 3), "generation", "1-another")
    return "shard 3 of step 'seen' is of start another of generation 1"


def set_a_cell_back(client):
    client.hset(KEYS.applied("seen", 3), "generation", "0")
    return "shard 3 of step 'seen' is of generation 0, but the manifest is of 1"


def lose_the_progress(client):
    client.delete(KEYS.progress(0, 1))
    return f"the progress {KEYS.progress(0, 1).decode()!r} is missing"


def lose_the_journal(client):
    client.delete(KEYS.journal(0, 1))
    return f"the journal {KEYS.journal(0, 1).decode()!r} is missing"


def lose_the_last_entry(client):
    journal = KEYS.journal(0, 1)
    ((newest, _),) = client.xrevrange(journal, count=1)
    client.xdel(journal, newest)
    return f"the journal {journal.decode()!r} holds {client.xlen(journal)} entries and must hold"


def damage_an_entry(client):
    client.xadd(KEYS.journal(0, 1), {"c": b"3:seen", "d": b"\x81"}, id="99999-1")
    return "entry 99999-1 of the journal"


def add_an_entry(client):
    client.xadd(KEYS.journal(0, 1), {"c": b"3:nobody", "d": b"\x80"}, id="99999-999999")
    return "is of shard 3 of step 'nobody', which the manifest does not list"


def outrun_the_progress(client):
    client.hset(KEYS.applied("seen", 3), "p0", 10**9)
    return "shard 3 of step 'seen' has applied epoch 1000000000"


def move_a_state(client):
    key = a_state(client)
    step, _, name = KEYS.parse_state(key)
    other = KEYS.state(step, (shard_of(name, 64) + 1) % 64, name)
    client.rename(key, other)
    return f"the key {other.decode()!r} is in the wrong shard"


def leave_a_newer_journal(client):
    client.xadd(KEYS.journal(0, 7), {"c": b"", "d": b""})
    return "is of generation 7, partition 0, which the manifest does not list"


def leave_a_foreign_key(client):
    client.set(KEYS.manifest + b"-copy", b"x")
    return "is not one that this package writes"


DAMAGES = [
    *(lose_a_state, flip_a_byte, swap_two_values, lose_a_cell, change_a_count, change_a_deadline),
    *(lose_the_manifest, lose_a_manifest_field, set_the_counter_back, lose_the_progress),
    *(lose_the_journal, lose_the_last_entry, damage_an_entry, add_an_entry, outrun_the_progress),
    *(move_a_state, leave_a_newer_journal, leave_a_foreign_key),
    *(give_the_number_again, take_the_partition, take_a_cell, set_a_cell_back),
]


def test_each_damage_is_found_and_named(killed):
    """One flow, damaged in each way and mended again."""
    for key in killed.scan_iter(b"*:lease:*"):
        killed.delete(key)
    whole = {key: killed.dump(key) for key in killed.scan_iter()}
    for damage in DAMAGES:
        told = damage(killed)
        found = check(killed)
        assert not found.is_sound, damage.__name__
        errors = [f.what for f in found.findings if f.severity == "error"]
        assert any(told in what for what in errors), (damage.__name__, errors)
        assert all(f.hint for f in found.findings)
        killed.flushdb()
        for key, data in whole.items():
            killed.restore(key, 0, data)
    assert problems(check(killed)) == []


def test_many_alike_are_told_in_short(killed):
    for key in killed.scan_iter(KEYS.state_pattern):
        killed.append(key, b"x")
    found = check(killed)
    damaged = [f for f in found.findings if "is damaged" in f.what]
    assert len(damaged) == 20
    assert any("more damaged values" in f.what for f in found.findings)


def test_a_sound_flow_with_many_notes_is_sound(killed):
    for partition in range(25):
        killed.hset(KEYS.progress(partition, 0), "epoch", 1)
    found = check(killed)
    assert problems(found) == []
    assert found.is_sound
    left = [f for f in found.findings if "generation 0" in f.what]
    assert {f.severity for f in left} == {"note"}
    assert len(left) == 20
    assert any("5 more" in f.what and f.severity == "note" for f in found.findings)


def test_foreign_keys_are_counted_and_few_are_listed(killed):
    with killed.pipeline() as pipe:
        for number in range(5_000):
            pipe.set(KEYS.manifest + b"-copy-%d" % number, b"x")
        pipe.execute()
    found = check(killed)
    assert not found.is_sound
    assert len([f for f in found.findings if "-copy-" in f.what]) == 20
    assert any("4,980 more" in f.what for f in found.findings)


def command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, "doctor", *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_it_and_exits_by_it(killed, redis_url):
    sound = command("--verify", "visitors", "--redis", redis_url)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "sound: 0 errors" in sound.stdout
    told = lose_a_state(killed)
    damaged = command("--verify", "visitors", "--redis", redis_url)
    assert damaged.returncode == 1
    assert told in damaged.stdout
    assert "NOT SOUND: 1 errors" in damaged.stdout
    report = json.loads(command("--verify", "visitors", "--redis", redis_url, "--json").stdout)
    assert report["sound"] is False
    assert report["manifest"]["generation"] == 1
    assert [f["severity"] for f in report["findings"] if f["severity"] == "error"] == ["error"]


def test_the_document_names_every_field_and_the_number_of_findings_that_are_listed(
    killed, redis_url
):
    told = DOCUMENT.read_text().partition("## A flow in Redis")[2]
    assert f"At most {KEPT_PER_KIND} findings of a kind are listed" in told
    named = set(re.findall(r"`([a-z_]+)`", told.partition("| field of the JSON object")[2]))
    lose_a_state(killed)
    report = json.loads(command("--verify", "visitors", "--redis", redis_url, "--json").stdout)
    finding = report["findings"][0]
    assert named - {"null"} == {*report, *report["manifest"], *finding}


def test_what_cannot_be_checked_exits_by_two(redis_url, free_port):
    unknown = command("--verify", "nobody", "--redis", redis_url)
    assert unknown.returncode == 2
    assert "holds no key of a flow 'nobody' in namespace 'bytewax'" in unknown.stderr
    away = command("--verify", "nobody", "--redis", f"redis://127.0.0.1:{free_port}")
    assert away.returncode == 2
    for wrong in (("--verify", "a", "some/dir"), ()):
        assert command(*wrong).returncode == 2


def test_rights_to_read_are_enough(killed, redis_url):
    killed.acl_setuser(
        "auditor",
        enabled=True,
        passwords="+sesame",
        categories=["+@read", "+@connection"],
        commands=["+info", "+time"],
        keys=["bytewax:*"],
        reset=True,
    )
    try:
        url = redis_url.replace("//", "//auditor:sesame@")
        done = command("--verify", "visitors", "--redis", url)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        killed.acl_deluser("auditor")
