"""A pickle that somebody wrote into Redis: with ``--no-pickle`` it runs nothing, and is named."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys

from bytewax_redis_state.codec.envelope import PICKLE, seal
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.records.manifest import read_pickled

from .conftest import Sums, environment, finished

FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")


class Poison:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def plant(sums, key: str, command: str) -> None:
    place = sums.keys.state("sum", shard_of(key, 64), key)
    assert sums.client.exists(place)
    sums.client.set(place, seal(key, PICKLE, pickle.dumps(Poison(command))))


def test_a_planted_pickle_runs_nothing_without_pickle(run, sums, tmp_path):
    assert run(*FAST, ITEMS="30").returncode == 0
    ran = tmp_path / "ran"
    plant(sums, "k3", f"touch {ran}")
    refused = run(*FAST, "--no-pickle", ITEMS="60")
    assert refused.returncode == 2
    assert "k3" in refused.stderr
    assert "allow_pickle is False" in refused.stderr
    assert not ran.exists()


def test_a_planted_pickle_runs_nothing_in_a_step_that_never_pickled(run, sums, tmp_path):
    """Without any option: a pickle in the state of a step that held integers is somebody else's."""
    assert run(*FAST, ITEMS="30").returncode == 0
    ran = tmp_path / "ran"
    plant(sums, "k3", f"touch {ran}")
    refused = run(*FAST, ITEMS="60")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if "error: " in line]
    assert "step 'sum', key 'k3': its value is a pickle, and the flow has never written" in line
    assert not ran.exists()


def test_a_planted_pickle_runs_in_a_step_that_pickles(run, client, tmp_path):
    """The documents say so; and the two tests before would notice."""
    first = run(*FAST, flow="pickled()", ITEMS="30")
    assert first.returncode == 0
    (line,) = [line for line in first.stderr.splitlines() if "pickles its state" in line]
    assert "step 'sum' pickles its state from now on: value of type" in line
    assert "Opaque is of a foreign class" in line
    sums = Sums(client, "pickled")
    assert read_pickled(client, sums.keys) == ["sum"]
    second = run(*FAST, flow="pickled()", ITEMS="40")
    assert second.returncode == 0, second.stderr
    assert "pickles its state" not in second.stderr
    ran = tmp_path / "ran"
    plant(sums, "k3", f"touch {ran}")
    run(*FAST, flow="pickled()", ITEMS="60")
    assert ran.exists()


def test_a_flow_that_is_killed_with_its_first_pickles_resumes(run, client, eventually):
    """The record is never behind the pickles: not in the journal, and not in the keyed state."""
    sums = Sums(client, "pickled")
    for number in range(3):
        process = run.start(
            "-s", "0.05", "--checkpoint-interval", "0.1", flow="pickled()", ITEMS="100000"
        )
        eventually(lambda n=number: sums.manifest and sums.manifest.generation > n)
        eventually(lambda: sums.client.exists(sums.keys.state("sum", shard_of("k3", 64), "k3")))
        os.killpg(process.pid, signal.SIGKILL)
        finished(process)
    done = run(*FAST, flow="pickled()", ITEMS="10")
    assert done.returncode == 0, done.stderr


LAZY = """
import os
import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSource, TestingSink
flow = Dataflow("numbers")
items = op.input("in", flow, TestingSource([("k", n) for n in range(int(os.environ["ITEMS"]))]))
def add(total, number):
    from colours import Point  # loaded when the first item comes, not when state is read
    return Point((total.x if total else 0) + number), total
op.output("out", op.stateful_map("sum", items, add), TestingSink([]))
"""


def test_a_class_of_a_module_that_is_not_loaded_has_to_be_allowed(redis_url, tmp_path):
    (tmp_path / "lazy.py").write_text(LAZY)
    classes = "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
    (tmp_path / "colours.py").write_text(classes)

    def run(*options: str, items: str):
        command = [sys.executable, "-m", "bytewax_redis_state.run", "lazy:flow", *FAST]
        return subprocess.run(
            [*command, "--redis", redis_url, "--no-pickle", *options],
            cwd=tmp_path,
            env=environment(ITEMS=items),
            capture_output=True,
            text=True,
            check=False,
        )

    assert run(items="5").returncode == 0
    refused = run(items="9")
    assert refused.returncode == 2
    assert "module 'colours' is neither loaded nor in allow_imports" in refused.stderr
    allowed = run("--allow-import", "colours", items="9")
    assert allowed.returncode == 0, allowed.stderr
