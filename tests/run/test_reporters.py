"""A reporter of the caller's that fails keeps no process from ending."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from . import failing_reporter
from .conftest import finished

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
