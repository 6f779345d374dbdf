"""Sightings: how far Redis has said that a flow is, kept beside, to notice a Redis that went back.

An older copy of Redis is consistent in itself: state, source positions and epochs go back together,
so nothing in it tells. What an execution was told is on its status board, in its scratch folder;
it is read when the execution ends or when a later start removes its leftovers, and kept in a small
file for each life of a flow. Invariant: a sighting is never above what every process was told.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bytewax_redis_state.recovery.replicator.life_file import read_life
from bytewax_redis_state.recovery.replicator.status import StatusBoard

__all__ = ["Sighting", "Sightings", "sighting_of"]

_PREFIX = "bytewax-seen-"
_MOST_FILES = 100


class Sighting(NamedTuple):
    """What was seen of a flow.

    :arg incarnation: The flow's life.
    :arg epoch: Redis had committed everything below it.
    """

    incarnation: str
    epoch: int


def sighting_of(folder: Path) -> Sighting | None:
    """Read how far an execution was that has ended, from its scratch folder.

    :returns: ``None`` where it has left nothing that can be read.
    """
    life = read_life(folder)
    board = folder / "status"
    if life is None or not board.is_file():
        return None
    try:
        status = StatusBoard(board).read()
    except (OSError, ValueError):
        return None
    # Of several processes, one may be ahead of the others; what is folded, all have committed.
    epoch = status.progress if life.partitions == 1 else status.applied + 1
    return Sighting(life.incarnation, epoch)


class Sightings:
    """The files of a folder that say what was seen.

    :arg folder: Of the embedded server, or for scratch files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, incarnation: str) -> Path:
        return self._folder / f"{_PREFIX}{incarnation}"

    def epoch(self, incarnation: str) -> int:
        """Give the newest epoch that was seen of a life; 0 where none was."""
        path = self._file(incarnation)
        try:
            if path.lstat().st_uid != os.geteuid() or path.is_symlink():
                return 0
            return int(json.loads(path.read_text())["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def note(self, sighting: Sighting | None, *, went_back: bool = False) -> None:
        """Keep a sighting, unless a newer one is kept.

        :arg went_back: Whether an older one is to count from now on.
        """
        if sighting is None:
            return
        if not went_back and sighting.epoch <= self.epoch(sighting.incarnation):
            return
        path = self._file(sighting.incarnation)
        with suppress(OSError):  # it serves to warn; no run fails for it
            descriptor, draft = tempfile.mkstemp(dir=self._folder, prefix=".seen-")
            with os.fdopen(descriptor, "w") as file:
                json.dump({"epoch": sighting.epoch}, file)
            Path(draft).replace(path)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        files = sorted(self._folder.glob(f"{_PREFIX}*"), key=lambda path: path.lstat().st_mtime)
        for path in files[:-_MOST_FILES]:
            path.unlink(missing_ok=True)
