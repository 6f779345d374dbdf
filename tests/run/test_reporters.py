"""Reporters that fail, and a standard error that nobody reads, change nothing of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import failing_reporter
from .conftest import expected, finished

ROOT = Path(__file__).parents[2]


def test_processes_of_a_cluster_that_is_taken_over_end_all_the_same(
    run, sums, two_addresses, eventually
):
    script = (sys.executable, str(Path(failing_reporter.__file__)))
    env = {"ITEMS": "1000000", "PAUSE": "0.01", "PYTHONPATH": str(ROOT)}
    both = [
        run.spawn(
            *(*script, run.url, str(run.folder / number), number, two_addresses),
            stdout=subprocess.DEVNULL,
            **env,
        )
        for number in ("0", "1")
    ]
    eventually(lambda: sums.manifest and sums.progress() > 3)
    done = run("-s", "0.1", "--take-over", ITEMS="1")
    assert done.returncode == 0, done.stderr
    ends = [finished(process, 30) for process in both]
    assert [end.returncode for end in ends] == [2, 2], [end.stderr for end in ends]
    assert any("the reporter's own mistake" in end.stderr for end in ends)


def test_a_reader_of_stderr_that_goes_away_takes_nothing_with_it(run, sums):
    """As ``2> >(head -1)`` does: the output stays the flow's, and the flow comes to its end."""
    read, write = os.pipe()
    # The sources wait, and go on, at each epoch: there is much to say.
    options = ("-s", "0.05", "--max-lag", "1")
    process = run.start(*options, stderr=write, ITEMS="60", PAUSE="0.01", PARTS="a")
    os.close(write)
    assert b"starting at epoch 1" in os.read(read, 1000)
    os.close(read)
    done = finished(process, 60)
    assert len(done.stdout.splitlines()) == 60
    assert done.returncode == 0
    assert sums.state() == expected(60, 1)
