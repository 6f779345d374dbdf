"""The private, locked folder of one execution on the scratch disk.

Invariant: a folder belongs to one execution and is never continued by another; its lock is held by
the dataflow's process and by its replicator, not by their children, so whoever gets the lock knows
that both are gone. Only the user who runs the flow, and root, can change what it holds, until the
engine reads it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bytewax_redis_state.config.ownership import (
    changeable_by_others,
    folder_flaw,
    foreign_owner,
)
from bytewax_redis_state.errors import ScratchError
from bytewax_redis_state.recovery.child_processes import close_in_children

__all__ = ["LEAST_FREE", "Scratch", "free_bytes", "open_scratch"]

_PREFIX = "bytewax-outbox-"
LEAST_FREE = 64 * 1024 * 1024
"""Bytes of the scratch disk that are never counted on."""


def free_bytes(path: Path) -> int:
    """Give how much room the scratch disk has.

    :arg path: Of an execution's folder or of its outbox.
    :returns: Bytes.
    :raises ScratchError: If the path is gone: the outbox was deleted under the flow.
    """
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        raise ScratchError(
            f"{path} is gone while the flow runs ({error.strerror})",
            "start the flow again, it resumes from what Redis has; keep cleaners of temporary "
            "files away from the folder of --scratch",
        ) from error


@dataclass(frozen=True)
class Scratch:
    """A folder of our own, and the descriptor that holds its lock.

    :arg folder: Where the outbox file goes; mode 0700.
    :arg lock: File descriptor to hand to the replicator too.
    :arg leave_to_children: Ends that children of this process close the lock.
    """

    folder: Path
    lock: int
    leave_to_children: Callable[[], None]

    def require_room(self, size: int) -> None:
        """Refuse a disk that can't take so many bytes and our own reserve.

        :raises ScratchError: If there is not enough room.
        """
        free = free_bytes(self.folder)
        if free < size + LEAST_FREE:
            raise ScratchError(
                f"the scratch folder {self.folder.parent} has {free // 2**20} MiB free, "
                f"{(size + LEAST_FREE) // 2**20} MiB are needed",
                "give --scratch a folder with room",
            )

    def require_private(self) -> None:
        """Refuse a folder that others could have changed; asked just before the engine reads it.

        The engine unpickles what it loads from there.

        :raises ScratchError: If it is gone, no folder, another user's, or open to others.
        """
        try:
            about = self.folder.lstat()
            is_folder = stat.S_ISDIR(about.st_mode)
            flaw = folder_flaw(self.folder, private=True) if is_folder else "is no folder"
            if flaw is None and about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                flaw = f"has the mode {stat.S_IMODE(about.st_mode):04o}, and was made with 0700"
        except OSError as error:
            flaw = f"can't be looked at: {error.strerror}"
        if flaw is not None:
            raise ScratchError(
                f"the outbox folder {self.folder} {flaw}: the engine would unpickle what others "
                "may have put there",
                "find out who changed it, and start the flow again: it resumes from Redis",
            )

    def remove(self) -> None:
        """Delete the folder and let go of the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.leave_to_children()
        with suppress(OSError):  # closed already
            os.close(self.lock)


def _require_own(scratch_folder: Path) -> None:
    """Refuse a folder in which another user could put a folder of theirs in place of ours.

    Where all may write, as in ``/tmp``, the sticky bit keeps folders with those who made them.
    """
    about = scratch_folder.stat()
    flaw = foreign_owner(about)
    if flaw is None and not about.st_mode & stat.S_ISVTX:
        flaw = changeable_by_others(about)
    if flaw is not None:
        raise ScratchError(
            f"the scratch folder {scratch_folder} {flaw}",
            f"give --scratch a folder of your own with mode 700, such as {scratch_folder / 'own'}, "
            "or one with the sticky bit (chmod +t), such as /tmp",
        )


def _lock(folder: Path, flags: int = 0) -> int | None:
    try:
        descriptor = os.open(
            folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600
        )
    except OSError:  # no folder of ours, or somebody else is removing it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(scratch_folder: Path, last_look: Callable[[Path], object]) -> None:
    for folder in scratch_folder.glob(f"{_PREFIX}*"):
        # Another user's folders are not ours to judge, and links lead elsewhere.
        with suppress(OSError):
            about = folder.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid():
                _remove_if_unlocked(folder, last_look)


def _remove_if_unlocked(folder: Path, last_look: Callable[[Path], object]) -> None:
    descriptor = _lock(folder)
    if descriptor is not None:
        last_look(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def open_scratch(
    scratch_folder: Path, last_look: Callable[[Path], object] = lambda _folder: None
) -> Scratch:
    """Make a private folder in the scratch folder, and remove leftovers that nobody locks.

    :arg scratch_folder: The folder of ``--scratch``; made where it is missing.
    :arg last_look: Gets the folder of each leftover before it is removed.
    :returns: The new folder, locked.
    :raises ScratchError: If it can't be made or has no room.
    """
    hint = "give --scratch a folder that can be written"
    try:
        scratch_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(scratch_folder)
        _remove_leftovers(scratch_folder, last_look)
        # Locked before it gets the name that leftovers are found by.
        hidden = Path(tempfile.mkdtemp(prefix=".new-", dir=scratch_folder))
        descriptor = _lock(hidden, os.O_CREAT)
        folder = hidden.rename(scratch_folder / f"{_PREFIX}{hidden.name[len('.new-') :]}")
    except OSError as error:
        raise ScratchError(
            f"the scratch folder {scratch_folder} can't be used: {error}", hint
        ) from error
    if descriptor is None:
        raise ScratchError(f"the scratch folder {scratch_folder} can't lock files", hint)
    scratch = Scratch(folder, descriptor, close_in_children(descriptor))
    try:
        scratch.require_room(0)
    except ScratchError:
        scratch.remove()
        raise
    return scratch
