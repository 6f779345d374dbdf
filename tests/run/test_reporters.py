"""A reporter of the caller's that fails keeps no process from ending."""

from __future__ import annotations

import subprocess
import sys

from .conftest import environment, finished


def test_processes_of_a_cluster_that_is_taken_over_end_all_the_same(
    run, sums, two_addresses, eventually
):
    for number in ("0", "1"):
        command = [sys.executable, "-m", "tests.run.speechless", run.url]
        command += [str(run.folder / number), number, two_addresses]
        process = subprocess.Popen(
            command,
            env=environment(ITEMS="1000000", PAUSE="0.01"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        run.started.append(process)
    both = tuple(run.started)
    eventually(lambda: sums.manifest and sums.progress() > 3)
    done = run("-s", "0.1", "--take-over", ITEMS="1")
    assert done.returncode == 0, done.stderr
    ends = [finished(process, 30) for process in both]
    assert [end.returncode for end in ends] == [2, 2], [end.stderr for end in ends]
    assert any("the reporter's own mistake" in end.stderr for end in ends)
