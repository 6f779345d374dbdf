"""Flows whose values are signed and encrypted: the whole path, keys that rotate, forgers."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import MSGPACK, deadline_of, key_ids_of, seal
from bytewax_redis_state.config import Secrets
from bytewax_redis_state.doctor.verification import verify
from bytewax_redis_state.keys import FlowKeys, shard_of
from tests.run.conftest import expected, finished

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
KEYS = {name: bytes([number]) * 32 for number, name in enumerate(("old", "new", "e1", "e2"), 1)}
ENCRYPTED = {"encryption_keys": ["e1"], "encrypt_with": "e1"}


@pytest.fixture
def key_file(tmp_path):
    """Write a key file: ``key_file("a", signing_keys=["old"], sign_with="old")``."""

    def write(name: str, **settings: object) -> Path:
        document = {
            field: {i: base64.b64encode(KEYS[i]).decode() for i in value}
            if isinstance(value, list)
            else value
            for field, value in settings.items()
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        path.chmod(0o600)
        return path

    return write


def signed_with(signer: str, *others: str) -> dict[str, object]:
    return {"signing_keys": [signer, *others], "sign_with": signer}


def key_ids(sums, place: int = 1) -> Mapping[str, int]:
    """Count by the ID of the signing key (0 for that of encryption)."""
    values = (sums.client.get(key) for key in sums.client.scan_iter(sums.keys.state_pattern, 1000))
    return Counter(key_ids_of(value)[place].decode() for value in values)


def codec_of(path: Path) -> Codec:
    return Codec(**Secrets.from_file(path).given)


def values(sums, path: Path, step: str = "sum") -> dict[str, object]:
    return sums.state(step, codec_of(path))


def everything_in(client) -> bytes:
    found = []
    for key in client.scan_iter():
        kind = client.type(key)
        read = {
            b"string": client.get,
            b"hash": lambda k: b"".join(client.hgetall(k).values()),
            b"stream": lambda k: b"".join(b"".join(f.values()) for _, f in client.xrange(k)),
        }
        found.append(read[kind](key))
    return b"".join(found)


def test_a_protected_flow_is_killed_and_goes_on(run, sums, client, key_file, eventually):
    path = key_file("keys", **signed_with("old"), **ENCRYPTED)
    options = (*FAST, "--key-file", str(path), "--no-pickle", "--retention", "sum=1h")
    process = run.start(*options, ITEMS="600", PAUSE="0.01")
    eventually(lambda: sums.manifest and sums.manifest.processes and sums.progress() > 12)
    argv = b"".join(
        file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()
    )
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)
    assert sums.applied() > 1
    done = run(*options, ITEMS="600", PAUSE="0.001")
    assert (done.returncode, "k0" in done.stdout) == (0, True), done.stderr
    assert values(sums, path) == expected(600)
    assert values(sums, path, "in") == {"a": 600, "b": 600}
    assert key_ids(sums) == {"old": 7}
    assert key_ids(sums, 0) == {"e1": 7}
    for key in KEYS.values():  # neither shown nor told
        for form in (key, base64.b64encode(key), key.hex().encode()):
            assert form not in argv
            assert form not in everything_in(client)
            assert form not in done.stderr.encode()
    # Deadlines are in the clear: Redis and a resume read them.
    for key in client.scan_iter(sums.keys.state_pattern):
        if sums.keys.parse_state(key)[0] == "sum":
            assert deadline_of(client.get(key)) is not None
            assert client.pttl(key) > 0


def test_keys_may_come_from_the_environment_and_values_be_compressed(run, sums):
    env = {
        "BYTEWAX_REDIS_SIGNING_KEYS": f"old={base64.b64encode(KEYS['old']).decode()}",
        "BYTEWAX_REDIS_SIGN_WITH": "old",
        "BYTEWAX_REDIS_COMPRESSION": "zlib",
    }
    for items in ("20", "30"):
        done = run(*FAST, ITEMS=items, **env)
        assert done.returncode == 0, done.stderr
    assert key_ids(sums) == {"old": 7}
    refused = run(*FAST, ITEMS="40")
    assert refused.returncode == 2
    assert "needs the signing key 'old', which the codec doesn't have" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_idle_state_of_every_kind_gets_the_current_key(run, sums, client, key_file):
    first = key_file("first", **signed_with("old"), **ENCRYPTED)
    second = key_file(
        "second", **signed_with("new", "old"), encryption_keys=["e1", "e2"], encrypt_with="e2"
    )
    options = (*FAST, "--retention", "sum=1h")
    assert run(*options, "--key-file", str(first), ITEMS="30").returncode == 0
    before = {k: deadline_of(client.get(k)) for k in client.scan_iter(sums.keys.state_pattern)}
    # Nothing is left to read, so nothing is changed by the flow itself.
    done = run(*options, "--key-file", str(second), ITEMS="30")
    assert done.returncode == 0, done.stderr
    assert "7 values were written again with the current keys" in done.stderr
    assert key_ids(sums) == {"new": 7}
    assert key_ids(sums, 0) == {"e2": 7}
    assert values(sums, second) == expected(30)
    after = {k: deadline_of(client.get(k)) for k in client.scan_iter(sums.keys.state_pattern)}
    assert after == before
    assert all(client.pttl(key) > 0 for key, deadline in before.items() if deadline is not None)
    again = run(*options, "--key-file", str(second), ITEMS="30")
    assert "written again" not in again.stderr
    assert verify(client, sums.keys).is_sound


def test_idle_sources_and_sinks_alone_get_the_current_key(run, sums, client, key_file):
    """The engine asks an idle sink for no snapshot; what it counted goes on under the new key."""
    sums = type(sums)(client, "counted")
    options = (*FAST, "--key-file")
    steps = (signed_with("old"), signed_with("new", "old"), signed_with("new"))
    for number, keys in enumerate(steps):
        path = key_file(str(number), **keys)
        done = run(*options, str(path), flow="counted()", ITEMS="30")
        assert done.returncode == 0, done.stderr
        assert ("4 values were written again" in done.stderr) is (number == 1)
        resumed = {"None"} if number == 0 else {"24", "36"}
        assert set(re.findall("sink resumes at (.*)", done.stdout)) == resumed
        assert key_ids(sums) == {keys["sign_with"]: 4}
    assert values(sums, path, "in") == {"a": 30, "b": 30}
    assert values(sums, path, "out") == {"0": 36, "1": 24}


@pytest.mark.long
def test_signing_is_brought_in_and_taken_out_while_state_stays(run, sums, client, key_file):
    assert run(*FAST, ITEMS="20").returncode == 0
    strict = key_file("strict", **signed_with("old"))
    refused = run(*FAST, "--key-file", str(strict), ITEMS="30")
    assert refused.returncode == 2
    assert "is not signed, and accept_unsigned is False" in refused.stderr
    lenient = key_file("lenient", **signed_with("old"), accept_unsigned=True)
    for path in (lenient, strict):
        assert run(*FAST, "--key-file", str(path), ITEMS="30").returncode == 0
        assert key_ids(sums) == {"old": 7}
    out = key_file("out", signing_keys=["old"], accept_unsigned=True)
    assert run(*FAST, "--key-file", str(out), ITEMS="30").returncode == 0
    assert key_ids(sums) == {"": 7}
    assert run(*FAST, ITEMS="40").returncode == 0
    assert values(sums, out) == expected(40)


def start_two(run, addresses: str, files, items: int, **env: str):
    return [
        run.start(
            *FAST,
            "--key-file",
            str(files[i]),
            "-i",
            str(i),
            "-a",
            addresses,
            ITEMS=str(items),
            **env,
        )
        for i in range(2)
    ]


@pytest.mark.long
def test_keys_rotate_in_a_cluster_one_process_after_the_other(
    run, sums, client, key_file, two_addresses, eventually
):
    """At each step the processes differ, are killed, and go on; nothing is refused or lost."""
    old = key_file("1-old", **signed_with("old"))
    known = key_file("2-known", **signed_with("old", "new"))
    turned = key_file("3-turned", **signed_with("new", "old"))
    steps = [(old, old), (known, old), (known, known), (turned, known), (turned, turned)]
    generation = 0
    for number, files in enumerate(steps):
        both = start_two(run, two_addresses, files, 5000, PAUSE="0.01")

        def is_under_way(both=both, after=generation):
            assert [process.poll() for process in both] == [None, None], [
                process.communicate() for process in both
            ]
            now = sums.manifest
            if now is None or now.generation == after or not now.processes:
                return False
            return min(sums.progress(0), sums.progress(1)) > now.resume_epoch + 4

        eventually(is_under_way)
        generation = sums.manifest.generation
        for process in both:
            os.killpg(process.pid, signal.SIGKILL)
        for process in both:
            said = finished(process)
            assert "Error" not in said.stderr, f"step {number}: {said.stderr}"
    last = start_two(run, two_addresses, (turned, turned), 300)
    assert [finished(process, 200).returncode for process in last] == [0, 0]
    found = values(sums, turned)
    assert key_ids(sums) == {"new": 7}
    new = key_file("4-new", **signed_with("new"))
    last = start_two(run, two_addresses, (new, new), 300)
    assert [finished(process, 200).returncode for process in last] == [0, 0]
    assert values(sums, new) == found
    sums.require_sums_of_sources(300, codec_of(new))


def test_what_a_removed_key_signed_is_refused_by_name(run, sums, client, key_file):
    both = key_file("both", **signed_with("new", "old"))
    assert run(*FAST, "--key-file", str(both), ITEMS="30").returncode == 0
    place = sums.keys.state("sum", shard_of("k3", 64), "k3")
    stale = Codec(signing_keys={"old": KEYS["old"]}, sign_with="old")
    stale = stale.bind(namespace="bytewax", flow_id="numbers", step="sum")
    client.set(place, stale.encode("k3", 1_000_000))
    new = key_file("new", **signed_with("new"))
    refused = run(*FAST, "--key-file", str(new), ITEMS="40")
    assert refused.returncode == 2
    assert "step 'sum', key 'k3': needs the signing key 'old'" in refused.stderr
    # As the threat model says: whoever has an old value of the same key can put it back.
    assert run(*FAST, "--key-file", str(both), ITEMS="30").returncode == 0
    assert values(sums, both)["k3"] == 1_000_000


@pytest.mark.parametrize("forged", ["unsigned", "other-bytes"])
def test_a_forged_value_is_refused_by_the_flow_and_told_by_the_doctor(
    run, sums, client, redis_url, key_file, forged
):
    path = key_file("keys", **signed_with("old"))
    assert run(*FAST, "--key-file", str(path), ITEMS="30").returncode == 0
    place = sums.keys.state("sum", shard_of("k3", 64), "k3")
    if forged == "unsigned":
        client.set(place, seal("k3", MSGPACK, b"\x01"))
        said = "is not signed"
    else:
        forger = Codec(signing_keys={"old": b"forger" * 6}, sign_with="old")
        forger = forger.bind(namespace="bytewax", flow_id="numbers", step="sum")
        client.set(place, forger.encode("k3", 1))
        said = "has a signature that its key 'old' did not make for this state key"
    refused = run(*FAST, "--key-file", str(path), ITEMS="40")
    assert refused.returncode == 2
    assert said in refused.stderr
    doctor = [SCRIPT, "doctor", "--verify", "numbers", "--redis", redis_url, "--json"]
    told = json.loads(
        subprocess.run([*doctor, "--key-file", path], capture_output=True, check=False).stdout
    )
    assert not told["sound"]
    assert [said in f["what"] for f in told["findings"] if f["severity"] == "error"] == [True]


def test_the_doctor_counts_by_key_and_says_what_it_could_not_verify(
    run, sums, client, redis_url, key_file
):
    first, second = key_file("a", **signed_with("old")), key_file("b", **signed_with("new", "old"))
    assert run(*FAST, "--key-file", str(first), ITEMS="30").returncode == 0
    doctor = [SCRIPT, "doctor", "--verify", "numbers", "--redis", redis_url]

    def told(*options):
        done = subprocess.run([*doctor, *options], capture_output=True, text=True, check=True)
        return done.stdout

    assert "values are signed: 7 with 'old'; not verified, because no keys were given" in told()
    assert "7 with 'old'; all verified; the next start" in told("--key-file", second)
    assert json.loads(told("--json"))["signed"] == {"old": 7}
    assert run(*FAST, "--key-file", str(second), ITEMS="30").returncode == 0
    assert "7 with 'new'; all verified; no other key is needed" in told("--key-file", second)


def test_a_key_file_that_others_can_read_is_refused_before_redis_is_asked(run, key_file):
    path = key_file("keys", **signed_with("old"))
    path.chmod(0o644)
    run.url = "redis://127.0.0.1:1"
    refused = run(*FAST, "--key-file", str(path))
    assert refused.returncode == 2
    assert "its mode is 0644: others may read or change it; set its mode to 600" in refused.stderr


def test_a_verification_without_keys_finds_damage_all_the_same(run, sums, client, key_file):
    path = key_file("keys", **signed_with("old"))
    assert run(*FAST, "--key-file", str(path), ITEMS="30").returncode == 0
    place = sums.keys.state("sum", shard_of("k3", 64), "k3")
    client.set(place, client.get(place)[:-1] + b"x")
    found = verify(client, FlowKeys("bytewax", "numbers"))
    assert ["fails its check sum" in f.what for f in found.findings if f.severity == "error"] == [
        True
    ]
