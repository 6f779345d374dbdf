"""Run a flow in a process that kills or stops itself at a step of its start, or has a bug.

It takes the arguments of ``python -m bytewax_redis_state.run``. ``CRASH_AT_STEP`` is ``kill:STEP``
or ``stop:STEP``; steps are those of ``recovery/start/takeover.py``, and further phases of a start:

============  =====================================================================
phase         what has happened
============  =====================================================================
``waiting``   a process that does not coordinate is about to wait for the manifest
``listed``    it has found a manifest that lists it
``restored``  the keyed state has been read
``outbox``    the outbox holds the restored rows
``shipping``  the replicator works; the engine has not started
============  =====================================================================

``replicator:STEP`` is a step of ``replicator_pauses.py``, where the replicator stops itself.
``CRASH_BUG`` names a bug of ``planted_bugs.py``, planted here and in the replicator.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted_bugs
import replicator_pauses

from bytewax_redis_state import run
from bytewax_redis_state.recovery import session
from bytewax_redis_state.recovery.replicator import process, watchdog
from bytewax_redis_state.recovery.start import steps, takeover

_REPLICATOR = "bytewax_redis_state.recovery.replicator.process"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def doom(strike: signal.Signals, doomed_step: str) -> None:
    """Make this process strike itself at a step."""

    def reached(step: str) -> None:
        if step == doomed_step:
            os.kill(os.getpid(), strike)

    for module in (takeover, session, steps):
        module.reached = reached  # type: ignore[attr-defined]
    wait_for_manifest = steps.wait_for_manifest

    def wait_and_find(*args: Any) -> Any:
        reached("waiting")
        found = wait_for_manifest(*args)
        reached("listed")
        return found

    steps.wait_for_manifest = wait_and_find
    for owner, method, phase in (
        (steps.Resume, "restore", "restored"),
        (steps.Resume, "make_outbox", "outbox"),
        (session.Session, "_start_replicator", "shipping"),
    ):
        setattr(owner, method, _then(getattr(owner, method), reached, phase))


def _then(
    method: Callable[..., Any], reached: Callable[[str], None], phase: str
) -> Callable[..., Any]:
    def wrapped(*args: Any, **named: Any) -> Any:
        result = method(*args, **named)
        reached(phase)
        return result

    return wrapped


class _Subprocess:
    """``subprocess`` as the watchdog sees it: its replicator is this file."""

    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired

    @staticmethod
    def Popen(command: list[str], **settings: Any) -> subprocess.Popen[bytes]:  # noqa: N802
        assert command[-1] == _REPLICATOR
        return subprocess.Popen([command[0], str(Path(__file__)), _REPLICATOR], **settings)


def main() -> int:
    planted_bugs.plant(os.environ["CRASH_BUG"])
    who, _, step = os.environ["CRASH_AT_STEP"].partition(":")
    if sys.argv[1:] == [_REPLICATOR]:
        if who == "replicator":
            replicator_pauses.doom(step)
        return process.main()
    watchdog.subprocess = _Subprocess  # type: ignore[assignment]
    if who in _SIGNALS:
        doom(_SIGNALS[who], step)
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
