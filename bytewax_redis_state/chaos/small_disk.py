"""A small disk for a trial's scratch files, so that it can be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bytewax_redis_state.chaos.system import StuckError

__all__ = ["can_mount", "small_disk"]

_BYTES = 128 * 1024 * 1024


def _mount(folder: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


def can_mount() -> bool:
    """Tell whether a disk can be mounted on this machine; mounts one to find out."""
    return os.geteuid() == 0 and shutil.which("mount") is not None and _try_mount()


def _try_mount() -> bool:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if not _mount(folder, 1024 * 1024):
            return False
        _unmount(folder)
        return True


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Make a folder and mount a small disk on it for as long as the block lasts.

    :raises StuckError: If that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount(folder, _BYTES):
        raise StuckError(f"no small disk can be mounted on {folder}")
    try:
        yield
    finally:
        _unmount(folder)
