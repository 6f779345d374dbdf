"""Run a flow on a system that is short of processes or threads; takes the arguments of the runner.

``STARVED`` is ``fork:COUNT`` or ``thread:NAME:COUNT``: so many starts of a replicator's process, or
of a thread of that name in it, fail once the file of ``STARVE_NOW`` is there. Limits of the system
can't be used for this: they don't bind root, as which tests may run. ``SPAWN_SECONDS`` and
``DRAIN_SECONDS`` shorten how long a process is tried for, and how long a drain may take.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bytewax_redis_state import run
from bytewax_redis_state.recovery.replicator import process, watchdog

_REPLICATOR = "bytewax_redis_state.recovery.replicator.process"


class _Starved:
    """Counts the starts that are still to fail."""

    def __init__(self, count: int) -> None:
        self._left = count

    def fails(self) -> bool:
        if self._left <= 0 or not Path(os.environ["STARVE_NOW"]).exists():
            return False
        self._left -= 1
        return True


def _starve_forks(count: int) -> Callable[[], list[str]]:
    """Give the replicator's command, or fail as a start of its process does."""
    starved = _Starved(count)

    def command() -> list[str]:
        if starved.fails():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return [sys.executable, str(Path(__file__)), _REPLICATOR]

    return command


def _starve_threads(name: str, count: int) -> None:
    starved, start = _Starved(count), threading._start_new_thread  # type: ignore[attr-defined]

    def start_or_fail(bootstrap: Any, args: Any) -> Any:
        if bootstrap.__self__.name == name and starved.fails():
            raise RuntimeError("can't start new thread")
        return start(bootstrap, args)

    threading._start_new_thread = start_or_fail  # type: ignore[attr-defined]


def _shorten_drain(seconds: float) -> None:
    configure = watchdog.Watchdog._configure

    def configure_shorter(self: Any, started: Any) -> Any:
        self._config = replace(self._config, drain_timeout=seconds)
        return configure(self, started)

    watchdog.Watchdog._configure = configure_shorter  # type: ignore[method-assign]


def main() -> int:
    kind, *rest = os.environ.get("STARVED", "fork:0").split(":")
    if sys.argv[1:] == [_REPLICATOR]:
        if kind == "thread":
            _starve_threads(rest[0], int(rest[1]))
        return process.main()
    if "STARVED" in os.environ:
        watchdog._command = _starve_forks(int(rest[0]) if kind == "fork" else 0)
    if "SPAWN_SECONDS" in os.environ:
        watchdog._SPAWN_SECONDS = float(os.environ["SPAWN_SECONDS"])
    if "DRAIN_SECONDS" in os.environ:
        _shorten_drain(float(os.environ["DRAIN_SECONDS"]))
    return run.main()


if __name__ == "__main__":
    sys.exit(main())
