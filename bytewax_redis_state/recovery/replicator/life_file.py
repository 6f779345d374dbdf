"""The life file: of which life of a flow an execution's status board speaks.

Invariant: it is written before the board shows anything of that life.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["Life", "read_life", "write_life"]


class Life(NamedTuple):
    """Of a flow.

    :arg incarnation: Random ID of the life.
    :arg partitions: Number of outbox partitions of the execution.
    """

    incarnation: str
    partitions: int


def write_life(folder: Path, life: Life) -> None:
    """Write the file in the execution's folder."""
    draft = folder / ".life"
    draft.write_text(json.dumps(life))
    draft.replace(folder / "life")


def read_life(folder: Path) -> Life | None:
    """Read the file, ``None`` where there is none that can be read."""
    try:
        incarnation, partitions = json.loads((folder / "life").read_text())
        int(incarnation, 16)
    except (OSError, ValueError, TypeError):
        return None
    return Life(incarnation, partitions) if isinstance(partitions, int) else None
