"""Rule 12 on several processes: Redis is emptied under a cluster, whose state comes back whole."""

from __future__ import annotations

import os
import signal
import time

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

from .conftest import expected, finished

OPTIONS = ("-s", "0.1", "--checkpoint-interval", "0.3")


def wait_for(condition, seconds: float = BOUND_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def start_two(run, addresses: str):
    return [
        run.start(*OPTIONS, "-i", str(i), "-a", addresses, ITEMS="1500", PAUSE="0.005")
        for i in (0, 1)
    ]


def test_two_processes_fill_an_emptied_redis_and_resume_from_it(run, sums, client, two_addresses):
    both = start_two(run, two_addresses)
    wait_for(lambda: sums.manifest and sums.manifest.resume_epoch and sums.progress() > 8)
    old = sums.manifest
    client.flushdb()
    wait_for(lambda: sums.manifest and sums.manifest.incarnation != old.incarnation)
    new = sums.manifest
    assert new.processes == old.processes
    wait_for(lambda: not sums.manifest.renewing)
    wait_for(lambda: sums.progress(0) > sums.manifest.resume_epoch + 3)
    for process in both:
        os.killpg(process.pid, signal.SIGKILL)
        finished(process)
    assert sum(sums.state().values()) > 0
    again = start_two(run, two_addresses)
    for process in again:
        done = finished(process)
        assert done.returncode == 0, done.stderr
    assert sums.manifest.incarnation == new.incarnation
    assert sums.state() == expected(1500)
