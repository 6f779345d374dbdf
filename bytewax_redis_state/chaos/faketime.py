"""The clock of one process, shifted by Debian's libfaketime; monotonic clocks stay true.

With true monotonic clocks, libfaketime 0.9.10 refuses the system call of Python's ``time.sleep``.
So a shifted process sleeps by ``select``, which libfaketime leaves alone. The library's variant for
programs with threads takes a lock at each look at a clock, and the engine looks all the time. The
plain variant is used here: all threads of a process get the same shift.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["clock_environ", "faketime_library", "set_clock"]

_PLACES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
_SLEEP = '''"""Written by the fault harness: see bytewax_redis_state/chaos/faketime.py."""
import select
import time

time.sleep = lambda seconds: select.select((), (), (), seconds) and None
'''


def faketime_library() -> Path | None:
    """Find the library; ``None`` where it is not installed."""
    found = (path for place in _PLACES for path in Path(place).glob("**/libfaketime.so.1"))
    return next(found, None)


def clock_environ(clock: Path) -> Mapping[str, str]:
    """Give the environment variables for a process whose clock will be shifted.

    :arg clock: File for :func:`set_clock`.
    """
    library = faketime_library()
    assert library is not None
    site = clock.with_name("site")
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SLEEP)
    before = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join([str(site), before] if before else [str(site)]),
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(clock: Path, seconds: int) -> None:
    """Shift a clock against the true one; the process sees it within a second.

    :arg clock: The file in which the process looks up the shift.
    """
    hidden = clock.with_suffix(".new")
    hidden.write_text(f"{seconds:+d}\n")
    hidden.replace(clock)
