"""Run a flow in a process that kills or stops itself at a step of its start, or that has a bug.

It takes the arguments of ``python -m bytewax_redis_state.run``. ``CRASH_AT_STEP`` is ``kill:STEP``
or ``stop:STEP``; the steps are those of ``recovery/start/steps.py``.

``replicator:STEP`` is a step of ``replicator_pauses.py``, at which the replicator stops itself.
``CRASH_BUG`` names a bug of ``planted_bugs.py``, planted here and in the replicator.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import planted_bugs
import replicator_pauses

from bytewax_redis_state import run
from bytewax_redis_state.recovery.replicator import process, watchdog
from bytewax_redis_state.recovery.start import steps

_REPLICATOR = "bytewax_redis_state.recovery.replicator.process"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def strike_at(strike: signal.Signals, at_step: str) -> None:
    """Make this process send itself a signal at a step."""

    def reached(step: str) -> None:
        if step == at_step:
            os.kill(os.getpid(), strike)

    steps.reached = reached


def _command() -> list[str]:
    """Stand for the watchdog's, and start this file as its replicator."""
    return [sys.executable, str(Path(__file__)), _REPLICATOR]


def main() -> int:
    planted_bugs.plant(os.environ["CRASH_BUG"])
    who, _, step = os.environ["CRASH_AT_STEP"].partition(":")
    if sys.argv[1:] == [_REPLICATOR]:
        if who == "replicator":
            replicator_pauses.pause_at(step)
        return process.main()
    assert watchdog._command()[-1] == _REPLICATOR
    watchdog._command = _command
    if who in _SIGNALS:
        strike_at(_SIGNALS[who], step)
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
