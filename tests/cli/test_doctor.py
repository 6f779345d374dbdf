"""The doctor tells what a store holds, to people and to programs, and refuses in one line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.cli.main import main
from bytewax_redis_state.dataflow.steps import state_steps
from bytewax_redis_state.stock import resume_estimate
from tests.stock import stock_flows
from tests.stock import stock_runs as stock

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
DOCUMENT = Path(__file__).parents[2] / "docs" / "doctor.md"
KEYS = 7


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return stock.run("windows", stock.make_store(tmp_path_factory.mktemp("stock") / "db", 3))


def doctor(*options):
    command = [SCRIPT, "doctor", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_SECONDS)
    return done.returncode, done.stdout, done.stderr


def test_json_is_one_object(finished):
    code, out, err = doctor(finished, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(out.splitlines()) == 1
    assert sorted(report) == [
        "directory",
        "executions",
        "file_bytes",
        "outdated_partitions",
        "partitions",
        "redis",
        "resume_epoch",
        "steps",
        "stock",
        "total",
        "workers",
    ]
    assert report["directory"] == str(finished)
    assert report["file_bytes"] == sum(p.stat().st_size for p in finished.iterdir())
    assert [sorted(p) for p in report["partitions"]] == [["copied", "file", "keys", "rows"]] * 3
    size = report["total"].pop("bytes")
    assert size == sum(step.pop("bytes") for step in report["steps"]) > 0
    counts = {"live_keys": 0, "idle_window_keys": 0, "tombstones": 0}
    counts |= {"superseded_rows": 0, "rows_above_resume": 0}
    steps = {step.pop("name"): step for step in report["steps"]}
    assert all(step.pop("step_id").startswith("shop.") for step in steps.values())
    assert steps == {
        "in": counts | {"rows": 1, "live_keys": 1},
        "session": counts | {"rows": KEYS, "live_keys": KEYS, "idle_window_keys": KEYS},
        "total": counts | {"rows": KEYS, "live_keys": KEYS},
        "tumble": counts | {"rows": KEYS, "tombstones": KEYS},
    }
    assert report["total"] == {
        name: sum(step[name] for step in steps.values()) for name in report["total"]
    }
    assert report["stock"] == {"resume_seconds": 0.0}
    assert report["redis"] == {
        "rows": 2 * KEYS + 1,
        "rows_saved": KEYS,
        "resume_seconds": 0.3,
        "dropped_by_retention": KEYS,
        "rows_with_retention": KEYS + 1,
        "resume_seconds_with_retention": 0.3,
    }


def fields(value):
    """Every name in a JSON value."""
    if isinstance(value, list):
        return set().union(*map(fields, value))
    return set(value).union(*map(fields, value.values())) if isinstance(value, dict) else set()


def test_the_document_names_every_field_and_no_other(finished):
    _code, out, _err = doctor(finished, "--json")
    text = DOCUMENT.read_text()
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", text.partition("## How good")[0]))
    assert named == fields(json.loads(out))


def test_steps_are_named_as_in_the_flow(finished):
    _code, out, _err = doctor(finished, "--json")
    named = {step["step_id"]: step["name"] for step in json.loads(out)["steps"]}
    assert named == {step.step_id: step.name for step in state_steps(stock_flows.windows())}


def test_a_person_gets_a_table_and_what_it_means(finished):
    code, out, err = doctor(finished)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    about = rf"{finished}: 3 partitions, \d+ KiB, 1 execution, the next from epoch \d+"
    assert re.fullmatch(about, out.splitlines()[0])
    assert ["session", "7", "7", "7", "0", "0", "0"] in [line[:7] for line in lines]
    assert ["tumble", "7", "0", "0", "7", "0", "0"] in [line[:7] for line in lines]
    assert ["all", "22", "15", "7", "7", "0", "0"] in [line[:7] for line in lines]
    assert out.splitlines()[-3:] == [
        "resume with Bytewax alone: about 1 s with 1 worker",
        "in Redis: 15 keys, 7 rows fewer; resume in about 1 s",
        "with retention: 7 idle window keys dropped, 8 left; resume in about 1 s",
    ]


def test_a_narrow_terminal_cuts_no_number(finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    _code, out, _err = doctor(finished)
    assert ["all", "22", "15", "7", "7", "0", "0"] in [
        line.split()[:7] for line in out.splitlines()
    ]


def test_it_says_which_files_it_copied_and_why(tmp_path):
    folder = stock.kill_stuck(stock.make_store(tmp_path / "db", 1))
    code, out, err = doctor(folder)
    assert (code, err) == (0, "")
    assert "read from a temporary copy: part-0.sqlite3 (a killed run left a log" in out
    assert "of epochs that never completed" in out


def test_it_says_that_stock_would_refuse(finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "db"))
    stock.execute(stock.part(folder, 1), "UPDATE commits SET commit_epoch = 1000")
    code, out, _err = doctor(folder)
    assert code == 0
    assert "Bytewax would refuse to resume: partition 0, 2 is older than the others" in out


def test_a_large_store_is_about_minutes(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resume_estimate, "STOCK_SECONDS_PER_ROW_AND_PAGE", 10.0)
    assert main(["doctor", str(finished)]) == 0
    # A page a partition, and a worker for all of them.
    assert "about 4 min with 1 worker" in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_cannot_be_read_is_one_line_and_exit_code_2(tmp_path, options):
    code, out, err = doctor(tmp_path / "nowhere", *options)
    assert (code, out) == (2, "")
    assert err.startswith("bytewax-redis-state: error: there is no directory ")
    assert len(err.splitlines()) == 1


def test_a_running_flow_is_exit_code_2(tmp_path):
    folder = stock.make_store(tmp_path / "db", 1)
    with stock.running(folder):
        code, out, err = doctor(folder)
    assert (code, out) == (2, "")
    assert "a flow is running on" in err
    assert err.endswith("stop the flow first\n")
