"""The clock of one process, shifted by Debian's libfaketime; monotonic clocks stay true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["clock_environ", "faketime_library", "set_clock"]

_PLACES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")


def faketime_library() -> Path | None:
    """Find the library for programs with threads; ``None`` where it is not installed."""
    found = (path for place in _PLACES for path in Path(place).glob("**/libfaketimeMT.so.1"))
    return next(found, None)


def clock_environ(clock: Path) -> Mapping[str, str]:
    """Give what a process has to be started with, so that its clock can be set.

    :arg clock: File for :func:`set_clock`.
    """
    library = faketime_library()
    assert library is not None
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def set_clock(clock: Path, seconds: int) -> None:
    """Shift a clock against the true one, at once.

    :arg clock: The file that the process reads.
    """
    hidden = clock.with_suffix(".new")
    hidden.write_text(f"{seconds:+d}\n")
    hidden.replace(clock)
