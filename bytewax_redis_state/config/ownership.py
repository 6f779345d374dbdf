"""Who owns a file or folder, and who else may change it.

A file that another user made, or may change, is not trusted: values in it may be pickles, which run
as the user who reads them. Root is trusted, because root can do all that anyway.

Invariant: a check looks at what was opened, or follows no symbolic link.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["changeable_by_others", "folder_flaw", "foreign_owner"]


def foreign_owner(about: os.stat_result) -> str | None:
    """Tell whose a file or folder is, if it is another user's.

    :arg about: Of the file or folder.
    :returns: The flaw, to be read after "it"; ``None`` for our own and for root's.
    """
    if about.st_uid in (os.geteuid(), 0):
        return None
    return f"belongs to the user {about.st_uid}, and this process runs as {os.geteuid()}"


def changeable_by_others(about: os.stat_result) -> str | None:
    """Tell whether other users may change a file, or what a folder holds.

    The user's own group may: where each user has a group, files are made so.

    :arg about: Of the file or folder.
    :returns: The flaw, to be read after "it"; ``None`` without one.
    """
    mode = stat.S_IMODE(about.st_mode)
    by_group = mode & stat.S_IWGRP and about.st_gid != os.getegid()
    if by_group or mode & stat.S_IWOTH:
        return f"has the mode {mode:04o}, so other users may write to it"
    return None


def folder_flaw(folder: Path, *, private: bool = False) -> str | None:
    """Tell why a folder can't hold files that are trusted.

    :arg folder: It must be there.
    :arg private: Whether it must be our own, and not root's, and all that it holds too.
    :returns: The flaw, to be read after the folder's name; ``None`` without one.
    :raises OSError: If it can't be looked at.
    """
    about = folder.lstat()
    if stat.S_ISLNK(about.st_mode) and foreign_owner(about) is not None:
        return "is a symbolic link that another user made"
    about = folder.stat()
    flaw = foreign_owner(about) or changeable_by_others(about)
    if flaw is None and private:
        if about.st_uid != os.geteuid():
            return f"belongs to the user {about.st_uid}, and this process runs as {os.geteuid()}"
        return _content_flaw(folder)
    return flaw


def _content_flaw(folder: Path) -> str | None:
    """Name something in a folder that another user put there while they could."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # it has gone meanwhile
            flaw = foreign_owner(entry.stat(follow_symlinks=False))
            if flaw is not None:
                return f"holds {entry.name!r}, which {flaw}"
    return None
