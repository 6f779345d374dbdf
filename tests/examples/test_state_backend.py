"""The examples of the state backend run, against a given Redis and against the embedded server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect

EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED = {
    "state_backend_basics": """\
the same value and types: True
a default for a missing key: none
deleted: True and again: False
a session has time left: True
after persist: None
a missing key is not in the answer: {'score:3': {'points': 9}, 'score:4': {'points': 16}}
keys that start with score: 1000
visits: 1 11
first come: True
second come: False
written over eve: False
after the transfer: {'{bank}:ann': 70, '{bank}:bob': 30}
the file is sound: True
restored: True
hit rate 80%, errors 0
""",
    "state_backend_distributed": """\
killed: 1
jobs done: 60 each once: True
sum: 1830 expected: 1830
counted by the workers: 60
said to be at work: 0
""",
}


def run(name: str, folder: Path, url: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=folder,
        env=os.environ | {"BYTEWAX_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_of_the_backend_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_runs_against_a_given_redis(name, redis_url, tmp_path):
    assert run(name, tmp_path, redis_url) == EXPECTED[name]
    client = connect(RedisConfig(url=redis_url))
    assert [key for key in client.scan_iter() if b"__bytewax__" not in key] == []
    client.close()


def test_runs_without_any_redis(tmp_path):
    assert run("state_backend_basics", tmp_path, "") == EXPECTED["state_backend_basics"]
    assert (tmp_path / ".bytewax-redis-state").is_dir()
