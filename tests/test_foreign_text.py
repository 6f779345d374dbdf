"""Names and texts of others reach a terminal escaped: as one line, and nothing is carried out."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from bytewax_redis_state.errors import StateError, shown
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.lease import this_owner
from bytewax_redis_state.recovery.reporter import GuardedReporter
from bytewax_redis_state.server.translation import translate_error
from bytewax_redis_state.ui.console import print_error
from tests.run.conftest import Runner, environment

EVIL = "e\x1b[2J\x1b]0;pwned\x07v\r\ni\u2028l\u202e\x9b"
HARMLESS = r"e\x1b[2J\x1b]0;pwned\x07v\r\ni\u2028l\u202e\x9b"
FLOW = """
import os
import tests.run.flows as flows
flows.PARTS = os.environ.get("LINES", "a").split("|")
flow = flows.get_flow(step=os.environ.get("STEP", "sum"))
"""


@pytest.fixture
def run(redis_url: str, tmp_path: Path):
    (tmp_path / "flow.py").write_text(FLOW)
    with Runner(redis_url, tmp_path) as runner:

        def start(*options: str, **env: str):
            root = str(Path(__file__).parents[1])
            return runner(*options, file=tmp_path / "flow.py", PYTHONPATH=root, **env)

        yield start


def require_escaped(output: str) -> None:
    assert not [line for line in output.splitlines() if not line.isprintable()], output
    assert HARMLESS in output


def test_a_text_is_shown_as_one_line_and_stays_so():
    assert shown(EVIL) == HARMLESS
    assert shown(HARMLESS) == HARMLESS
    assert shown("Ä, 鍵, 🔑") == "Ä, 鍵, 🔑"
    assert shown("\ud800") == r"\ud800"


def test_every_error_is_one_line(capfd):
    error = StateError(f"the step {EVIL}", f"drop {EVIL}")
    assert str(error) == f"the step {HARMLESS}; drop {HARMLESS}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    print_error(error)
    require_escaped(capfd.readouterr().err.rstrip("\n"))


def test_the_error_of_a_server_is_escaped():
    text = str(translate_error(ResponseError(f"ERR {EVIL}"), f"redis://{EVIL}:1/0"))
    assert text.isprintable()


def test_a_reporter_gets_lines_that_are_escaped():
    lines: list[str] = []

    class Lines:
        say = warn = lines.append

    reporter = GuardedReporter(Lines())
    reporter.say(f"waiting for {EVIL}")
    reporter.warn(f"gone: {EVIL}")
    assert lines == [f"waiting for {HARMLESS}", f"gone: {HARMLESS}"]


def test_a_line_break_in_the_name_of_a_partition_does_not_break_the_error(run):
    assert run(LINES=f"a|{EVIL}").returncode == 0
    refused = run(LINES="a")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    require_escaped(refused.stderr)


def test_a_lease_is_escaped(run, client):
    lease = replace(this_owner(0, "alone", {}), host=EVIL, phase=EVIL)
    client.set(FlowKeys("bytewax", "numbers").lease(0), lease.to_json(), px=5000)
    done = run()
    assert done.returncode == 0
    assert "waiting for process 0 on host e" in done.stderr
    require_escaped(done.stderr)


def test_the_name_of_a_step_and_a_foreign_key_are_escaped(run, redis_url, client):
    step = EVIL.replace("\r\n", "")  # which Bytewax itself refuses in a metric
    for _ in range(2):
        done = run(STEP=step)
        assert done.returncode == 0, done.stderr
        assert all(line.isprintable() for line in done.stderr.splitlines()), done.stderr
    client.set(f"bytewax:{{numbers}}:{EVIL}".encode("utf-8", "surrogatepass"), 1)
    doctor = (str(Path(sys.executable).with_name("bytewax-redis-state")), "doctor")
    told = subprocess.run(
        [*doctor, "--verify", "numbers", "--redis", redis_url],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert told.returncode == 1, told.stderr
    assert not [line for line in told.stdout.splitlines() if not line.isprintable()], told.stdout
    assert HARMLESS.replace(r"\r\n", "") in told.stdout
    as_json = subprocess.run(
        [*doctor, "--verify", "numbers", "--redis", redis_url, "--json"],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert as_json.stdout.rstrip(os.linesep).isprintable()
    assert step in json.loads(as_json.stdout)["keys"]
