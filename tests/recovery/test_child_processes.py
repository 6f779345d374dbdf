"""What a forked child gives up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

FORK = """
import os, signal, sys
from bytewax_redis_state.recovery.child_processes import in_each_child

def interrupt(number, frame):
    raise KeyboardInterrupt

number = int(sys.argv[1])
signal.signal(number, interrupt)
in_each_child(lambda: signal.signal(number, signal.SIG_DFL))
in_each_child(lambda: os.kill(os.getpid(), number))  # is called before the one above
child = os.fork()
if child == 0:
    os._exit(0)
_, status = os.waitpid(child, 0)
assert signal.getsignal(number) is interrupt
print(os.waitstatus_to_exitcode(status), *signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_right_after_the_fork_is_not_lost(number):
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(int(number))],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{-number}\n", "")
