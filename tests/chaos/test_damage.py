"""A strike changes the record that it says it changed, and no other; hostile values are exact."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import threading
import time

import pytest

from bytewax_redis_state.chaos import hostile_values
from bytewax_redis_state.chaos.damage import (
    RECORDS,
    Damage,
    Records,
    alter_record,
    delete_record,
    lose_entries,
    lose_some_kinds,
)
from bytewax_redis_state.chaos.flow_process import FlowProcess
from bytewax_redis_state.chaos.hostile_values import hostile_value, mark_of
from bytewax_redis_state.chaos.input_events import PARTS
from bytewax_redis_state.chaos.process_limits import LIMITS, lowered
from bytewax_redis_state.chaos.schedule import TOPOLOGIES, PlannedFault
from bytewax_redis_state.chaos.servers.single_server import SingleServer
from bytewax_redis_state.chaos.system import (
    Program,
    RefusedError,
    StuckError,
    SystemUnderTest,
)
from bytewax_redis_state.chaos.waiting import wait_until
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.keys import FlowKeys

SEEDS = range(12)


def planned(size: float = 0.1) -> PlannedFault:
    return PlannedFault("any", "stream", target=0, seconds=0.3, offset=0.1, size=size)


def fill(client, keys: FlowKeys) -> dict[bytes, bytes]:
    """Write one flow's records of all kinds, and give them all as Redis dumps them."""
    client.flushdb()
    client.set(keys.generation, "2-ab")
    client.hset(keys.manifest, mapping={"incarnation": "life", "generation": "2-ab", "format": "5"})
    client.set(keys.lease(0), '{"machine": "here", "id": "x"}')
    for partition in (0, 1):
        for generation in (1, 2):
            progress = {"incarnation": "life", "epoch": "5", "row": "7"}
            client.hset(keys.progress(partition, generation), mapping=progress)
            for row in range(1, 7):
                entry = {"c": f"{row % 3}:{'sum' if row % 2 else 'out'}", "d": "some delta"}
                client.xadd(keys.journal(partition, generation), entry, f"5-{row}")
    for shard in range(3):
        client.hset(keys.applied("sum", shard), mapping={"epoch": "4", "count": "2"})
        for key in "ab":
            client.set(keys.state("sum", shard, key), f"an envelope of {key} in {shard}")
    return found(client)


def found(client) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.keys("*")}


def struck(client, keys, strike, seed: int, plan: PlannedFault) -> tuple[Damage, set[bytes]]:
    before = fill(client, keys)
    damage = strike(Records(client, keys, random.Random(seed)), plan)
    after = found(client)
    return damage, {
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    }


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("verb", ["delete", "alter"])
def test_a_strike_changes_the_one_record_that_it_names(client, namespace, verb, record):
    keys = FlowKeys(namespace, "orders")
    strike = delete_record(record) if verb == "delete" else alter_record(record)
    said = set()
    for seed in SEEDS:
        damage, changed = struck(client, keys, strike, seed, planned())
        (key,) = changed
        assert keys.parse(key).kind == RECORDS[record][0]
        assert keys.parse(key).generation in (0, 2), "an older generation's is nobody's loss"
        assert damage.done.endswith(key.decode())
        assert damage.is_named_in(f"something is wrong with {key.decode()}")
        assert not damage.is_named_in("it is broken; start again")
        said.add(damage.done)
    assert verb == "delete" or len(said) > 3


def test_a_deleted_record_may_expire_instead(client, namespace):
    keys = FlowKeys(namespace, "orders")
    fill(client, keys)
    records = Records(client, keys, random.Random(1))
    damage = delete_record("manifest")(records, planned(size=0.9))
    assert damage.done.startswith("set to expire")
    wait_until(lambda: not client.exists(keys.manifest), "it expires")


def test_an_altered_journal_has_the_same_entries_and_the_same_last_id(client, namespace):
    keys = FlowKeys(namespace, "orders")
    for seed in SEEDS:
        fill(client, keys)
        key = keys.journal(0, 2)
        ids = [entry_id for entry_id, _ in client.xrange(key)]
        records = Records(client, keys, random.Random(seed))
        damage = alter_record("journal")(records, planned())
        if "list" not in damage.done and key.decode() in damage.done:
            assert [entry_id for entry_id, _ in client.xrange(key)] == ids
            assert client.xinfo_stream(key)["last-generated-id"] == ids[-1]


def test_lost_entries_are_lost_from_one_journal_which_stays(client, namespace):
    keys = FlowKeys(namespace, "orders")
    left = set()
    for seed in SEEDS:
        damage, (key,) = struck(client, keys, lose_entries, seed, planned())
        assert keys.parse(key).kind == "journal"
        assert key.decode() in damage.done
        left.add(client.xlen(key))
    assert {0, 5} <= left
    client.delete(*client.keys("*"))
    client.xadd(keys.journal(0, 1), {"c": "x"}, "1-1")
    client.xtrim(keys.journal(0, 1), 0)
    damage = lose_entries(Records(client, keys, random.Random(1)), planned())
    assert "found no entry" in damage.done


def test_whole_kinds_are_lost_and_others_stay(client, namespace):
    keys = FlowKeys(namespace, "orders")
    for seed in SEEDS:
        damage, changed = struck(client, keys, lose_some_kinds, seed, planned())
        kinds = {keys.parse(key).kind for key in changed}
        assert all(kind in damage.done for kind in kinds)
        assert found(client)


# --- values of hostile shape --------------------------------------------------------------------


def test_hostile_values_are_legal_and_each_key_comes_from_one_partition():
    codec = Codec().bind(namespace="n", flow_id="f", step="s")
    parts: dict[str, set[int]] = {}
    for number in range(60):
        key, value = hostile_value(number)
        parts.setdefault(key, set()).add(number * hostile_values.EVERY % PARTS)
        again = codec.decode(key, codec.encode(key, value))
        assert mark_of(again) == mark_of(value), key
    assert {len(each) for each in parts.values()} == {1}


def test_a_mark_tells_types_apart():
    assert len({mark_of(value) for value in (1, 1.0, True, (1,), [1], "1", b"1", 0.0, -0.0)}) == 9
    deep, flat = hostile_value(0)[1], (0,)
    assert mark_of(deep) != mark_of(flat)


# --- processes ----------------------------------------------------------------------------------


def test_a_limit_is_lowered_for_a_while():
    says = "import sys; sys.stdin.readline(); open('/dev/null'); print('opened')"
    with subprocess.Popen(
        [sys.executable, "-c", says], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        before = {limit: _limits(child.pid) for limit in LIMITS}
        time.sleep(1)  # so that it waits for its line
        with lowered("files", [child.pid]):
            assert _limits(child.pid) != before["files"]
            _, said = child.communicate("\n", timeout=60)
    assert "Too many open files" in said


def test_limits_come_back_and_a_process_that_has_ended_is_left_out():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        before = _limits(child.pid)
        for limit in LIMITS:
            with lowered(limit, [child.pid, 2**22 + 1]):
                assert _limits(child.pid) != before
            assert _limits(child.pid) == before


def _limits(pid: int) -> list[tuple[int, int]]:
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    return [resource.prlimit(pid, kind) for kind in (*kinds, resource.RLIMIT_NPROC)]


def test_standard_error_can_be_closed_under_a_process(tmp_path):
    says = (
        "import os, sys, time\n"
        "print('first', file=sys.stderr, flush=True)\n"
        "while True:\n"
        "    time.sleep(0.05)\n"
        "    try: print('more', file=sys.stderr, flush=True)\n"
        "    except BrokenPipeError: os._exit(3)\n"
    )
    process = FlowProcess(
        [sys.executable, "-c", says], {}, tmp_path / "process", tmp_path, piped=True
    )
    try:
        wait_until(lambda: "more" in process.err, "it says something")
        process.close_err()
        assert process.wait(60) == 3
    finally:
        process.kill_group()
    assert not [each for each in threading.enumerate() if each.name == "stderr"]


@pytest.mark.parametrize(
    ("says", "code", "raised"),
    [
        ("bytewax-redis-state: error: the manifest is gone, try {}", 2, RefusedError),
        ("ValueError: invalid literal", 1, StuckError),
        ("", 2, StuckError),
    ],
)
def test_after_damage_the_same_end_again_and_again_is_a_refusal_or_a_finding(
    server_binary, tmp_path, says, code, raised
):
    said = f"print({says!r}.format(os.getpid()), file=sys.stderr)"
    script = f"import os, sys; {said}; sys.exit({code})"
    system = SystemUnderTest(
        TOPOLOGIES["1-worker"],
        tmp_path / "system",
        SingleServer(tmp_path / "redis"),
        "refused",
        Program((sys.executable, "-c", script)),
    )
    try:
        system.open()
        system.damaged = True
        with pytest.raises(raised) as caught:
            system.tend_until(lambda: False, "the flow runs", 120)
    finally:
        system.close()
    if raised is RefusedError:
        assert caught.value.ending.error.startswith("bytewax-redis-state: error: the manifest")
    else:
        assert f"ends with {code} again and again, and names no reason" in str(caught.value)
