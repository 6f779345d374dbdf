"""Idle keys end: in memory, in Redis, in the outbox; and what stays, stays."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.server.client import Client

from .conftest import Sums, finished
from .test_bad_input import refused

FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
SHORT = ("--window-grace", "1s", "--retention", "seen=1500ms")
STEPS = ("visit", "tick", "seen")


@pytest.fixture
def visitors(client: Client) -> Sums:
    return Sums(client, flow_id="visitors")


def keys_of(visitors: Sums) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {step: [] for step in STEPS}
    for key in visitors.client.scan_iter(visitors.keys.state_pattern, 10_000):
        step, _shard, _name = visitors.keys.parse_state(key)
        found.setdefault(step, []).append(key)
    return found


def keyed(visitors: Sums) -> dict[str, int]:
    return {step: len(keys_of(visitors)[step]) for step in STEPS}


def wait_for(what, seconds: float = BOUND_SECONDS):
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def journals(visitors: Sums) -> int:
    client = visitors.client
    found = client.scan_iter(visitors.keys.partition_pattern, 1000)
    return sum(client.xlen(key) for key in found if b":journal:" in key)


def live(visitors: Sums) -> int:
    """State keys by the cells' own counts: sooner told than by a SCAN."""
    with visitors.client.pipeline(transaction=False) as pipe:
        for step in STEPS:
            for shard in range(64):
                pipe.hget(visitors.keys.applied(step, shard), "count")
        return sum(int(count or 0) for count in pipe.execute())


def cells(visitors: Sums) -> Iterator[dict[bytes, bytes]]:
    for step in STEPS:
        for shard in range(64):
            yield visitors.client.hgetall(visitors.keys.applied(step, shard))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_idle_key_ends_while_the_flow_runs(run, visitors, workers):
    process = run.start(*FAST, *SHORT, "-w", workers, flow="visitors()", OPEN="40")
    wait_for(lambda: keyed(visitors)["seen"] == 300)
    wait_for(lambda: keyed(visitors) == dict.fromkeys(STEPS, 0))
    wait_for(lambda: journals(visitors) == 0)
    assert process.poll() is None, "the source is open still"
    assert all(
        cell[b"count"] == b"0" and not [name for name in cell if name[:1] == b"d"]
        for cell in cells(visitors)
    )
    os.killpg(process.pid, signal.SIGTERM)
    assert finished(process).returncode in (130, -signal.SIGTERM)
    done = run(*FAST, *SHORT, "-w", "2", flow="visitors()", OPEN="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "nobody came"


def test_two_processes_end_their_keys(run, visitors, two_addresses):
    both = [
        run.start(*FAST, *SHORT, "-i", str(i), "-a", two_addresses, flow="visitors()", OPEN="40")
        for i in range(2)
    ]
    wait_for(lambda: keyed(visitors)["seen"] == 300)
    wait_for(lambda: keyed(visitors) == dict.fromkeys(STEPS, 0))
    for process in both:
        os.killpg(process.pid, signal.SIGTERM)
    for process in both:
        finished(process)


def test_an_expiry_is_the_deadline_and_the_allowance(run, visitors, client):
    """PTTL of an idle window key, of a key with an open window, and of a step without retention."""
    done = run(*FAST, "--window-grace", "1h", flow="visitors()", OPEN="0")
    assert done.returncode == 0, done.stderr
    found = keys_of(visitors)
    hour, week = 3600_000, 7 * 24 * 3600_000
    assert len(found["visit"]) == 300
    for key in found["visit"]:
        assert week + hour - 60_000 < client.pttl(key) < week + hour * 1.05
    assert {client.pttl(key) for key in found["seen"]} == {-1}
    run(*FAST, flow="windows()")
    assert visitors.manifest.retention == {"visit": hour + 200, "tick": hour + 200}


def test_an_open_window_has_no_expiry(run, visitors, client):
    process = run.start(*FAST, "--window-grace", "0", flow="windows()", ITEMS="100000")
    windows = Sums(client, flow_id="windows")
    pattern = windows.keys.state_pattern
    key = wait_for(
        lambda: next((k for k in client.scan_iter(pattern, 1000) if b":count:" in k), None)
    )
    assert client.pttl(key) == -1
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)


def test_forever_keeps_what_a_window_step_would_drop(run, visitors):
    options = ("--window-grace", "0", "--retention", "visit=forever", "--retention", "tick=forever")
    process = run.start(*FAST, *options, flow="visitors()", OPEN="3")
    wait_for(lambda: keyed(visitors)["visit"] == 300)
    assert finished(process).returncode == 0
    assert keyed(visitors) == {"visit": 300, "tick": 0, "seen": 300}
    assert visitors.manifest.retention == {}


def test_a_retention_may_come_and_go(run, visitors, client):
    """A step that comes to one, or loses it, has its idle keys written once, with or without."""
    for kept in (None, "seen=1h", None, "visitors.seen=2h"):
        options = ("--retention", kept) if kept else ()
        done = run(*FAST, *options, flow="visitors()", OPEN="0.5")
        assert done.returncode == 0, done.stderr
        found = keys_of(visitors)["seen"]
        assert len(found) == 300
        assert {client.pttl(key) > 0 for key in found} == {kept is not None}
    dated = [int(v) for cell in cells(visitors) for k, v in cell.items() if k[:1] == b"d"]
    assert sum(dated) == 600, "300 of the session windows too"


def test_downtime_ends_nothing(run, visitors):
    """A stop that is longer than the retention, with keys that had most of it left."""
    # On a busy machine the look at the keys comes seconds after the resume.
    short = ("--retention", "seen=8s", "--window-grace", "1h")
    done = run(*FAST, *short, flow="visitors()", OPEN="0")
    assert done.returncode == 0, done.stderr
    time.sleep(9)  # what is tested: this much time passes, and it does not count
    process = run.start(*FAST, *short, flow="visitors()", OPEN="60")
    wait_for(lambda: visitors.progress() > visitors.manifest.resume_epoch + 3)
    assert keyed(visitors)["seen"] == 300
    wait_for(lambda: keyed(visitors)["seen"] == 0)
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)


def results(text: str) -> set[str]:
    """What was put out; two workers' lines may run into each other."""
    return set(re.findall(r"\('v\d+', (?:None|\(-?\d+, \d+\))\)", text))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_again_and_again_every_visit_is_told_and_every_key_ends(run, visitors, workers):
    """SIGKILL while keys come, while they end, and while a restart is young."""
    options = (*FAST, *SHORT, "-w", workers)
    told: set[str] = set()
    for epochs in (4, 9, 14, 2):
        process = run.start(*options, flow="visitors()", OPEN="60")
        first = wait_for(lambda: visitors.manifest and visitors.manifest.resume_epoch)
        wait_for(lambda first=first, more=epochs: visitors.progress() > first + more)
        os.killpg(process.pid, signal.SIGKILL)
        told |= results(finished(process).stdout)
    done = run(*options, flow="visitors()", OPEN="4")
    assert done.returncode == 0, done.stderr
    told |= results(done.stdout)
    assert len([line for line in told if "None" in line]) == 300, "each was seen for the first time"
    assert len(told) == 900, "each came once, in one session and in one tumbling window"
    assert keyed(visitors) == dict.fromkeys(STEPS, 0)


GONE = ("--retention", "seen=1s", "--window-grace", "1h", "--downtime-allowance", "1s")


@pytest.fixture
def stood_still(run, visitors):
    """A flow that stopped, and whose keys Redis has dropped since."""
    done = run(*FAST, *GONE, flow="visitors()", OPEN="0")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: keyed(visitors)["seen"] == 0)


@pytest.mark.usefixtures("stood_still")
def test_what_has_expired_is_told_and_the_flow_goes_on(run, visitors):
    done = run(*FAST, *GONE, flow="visitors()", OPEN="0", VISITORS="310")
    assert done.returncode == 0, done.stderr
    assert "300 keys of step 'seen' had expired in Redis" in done.stderr
    assert len(done.stdout.splitlines()) == 30
    again = run(*FAST, *GONE, flow="visitors()", OPEN="0", VISITORS="310")
    assert again.returncode == 0, again.stderr


@pytest.mark.usefixtures("stood_still")
def test_to_fail_writes_nothing(run, visitors, dump):
    before = {key: value for key, value in dump().items() if b":lease:" not in key}
    done = run(*FAST, *GONE, "--on-expired", "fail", flow="visitors()", OPEN="0")
    refused(done, "300 keys of step 'seen'", "--on-expired=continue")
    assert {key: value for key, value in dump().items() if b":lease:" not in key} == before
    assert run(*FAST, *GONE, flow="visitors()", OPEN="0").returncode == 0
    again = run(*FAST, *GONE, "--on-expired", "fail", flow="visitors()", OPEN="0")
    assert again.returncode == 0, again.stderr


@pytest.mark.usefixtures("stood_still")
def test_an_evicted_key_beside_expired_ones_is_a_loss(run, visitors, client):
    client.delete(keys_of(visitors)["visit"][0])
    done = run(*FAST, *GONE, flow="visitors()", OPEN="0")
    refused(done, "step 'visit'", "were written")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--retention", "sem=7d"), ("no step 'sem'", "visit, tick, seen")),
        (("--retention", "in=7d"), ("the step is a source", "visit, tick, seen")),
        (("--retention", "seen=7x"), ("'7x' is not a duration", "7d")),
        (("--retention", "seen"), ("is not STEP=DURATION",)),
        (("--retention", "seen=0"), ("retention of step 'seen'", "for ever")),
        (("--retention", "seen=1d", "--retention", "visitors.seen=2d"), ("given as 'seen'",)),
        (("--downtime-allowance", "0"), ("downtime_allowance",)),
    ],
)
def test_a_retention_that_can_not_be(run, dump, options, said):
    before = dump()
    refused(run(*FAST, *options, flow="visitors()"), *said)
    assert dump() == before


def test_the_environment_gives_a_retention(run, visitors):
    done = run(*FAST, flow="visitors()", OPEN="0", BYTEWAX_REDIS_RETENTION="seen=3h,visit=forever")
    assert done.returncode == 0, done.stderr
    assert visitors.manifest.retention == {"seen": 3 * 3600_000, "tick": 24 * 3600_000 + 200}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), {"sum": 3 * 3600_000}),
        (("--retention", "sum=1d"), {"sum": 24 * 3600_000}),
        (("--retention", "marked.sum=forever"), {}),
    ],
)
def test_a_flow_may_say_itself_how_long_state_is_kept(run, client, given, kept):
    done = run(*FAST, *given, flow="marked()", OPEN="0", VISITORS="5")
    assert done.returncode == 0, done.stderr
    marked = Sums(client, flow_id="marked")
    assert marked.manifest.retention == kept
    assert {ttl > 0 for ttl in map(client.pttl, client.scan_iter("*:state:sum:*"))} == {bool(kept)}


def test_fifty_thousand_keys_leave_nothing(run, visitors, client):
    """Tombstones: none in the shard, the keyed state, the journal; a resume takes no time."""
    before = int(client.info("memory")["used_memory"])
    short = ("--window-grace", "1s", "--retention", "seen=2s")
    process = run.start(*FAST, *short, flow="visitors()", VISITORS="50000", OPEN="100", QUIET="1")
    wait_for(lambda: live(visitors) > 0)
    wait_for(lambda: live(visitors) == 0 and journals(visitors) == 0)
    assert keyed(visitors) == dict.fromkeys(STEPS, 0)
    wait_for(lambda: int(client.info("memory")["used_memory"]) < before + 5_000_000)
    os.killpg(process.pid, signal.SIGKILL)
    finished(process)
    again = run(*FAST, *short, flow="visitors()", VISITORS="50000", OPEN="0", QUIET="1")
    assert again.returncode == 0, again.stderr
    restored = re.search(r"keys: (.*), in [\d.]+ s", again.stderr)
    assert restored is not None, again.stderr
    assert sum(map(int, re.findall(r"\d+", restored[1]))) <= 1, "only the source has a state"
