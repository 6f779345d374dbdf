"""Opening a checkpoint file for writing or reading: at a path, as an open file, or from a pipe.

Invariant: a path shows a whole checkpoint or none. It is written to a temporary file beside the
path, and renamed at the end.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from bytewax_redis_state.config.ownership import changeable_by_others, foreign_owner
from bytewax_redis_state.errors import CheckpointError, ConfigError

__all__ = ["PathOrFile", "open_for_reading", "open_for_writing", "rewindable"]

PathOrFile: TypeAlias = str | os.PathLike[str] | BinaryIO
"""A path, or a file open in binary mode; it need not be seekable, and stays open."""

_SLICE = 1 << 20


@contextmanager
def open_for_writing(to: PathOrFile) -> Iterator[BinaryIO]:
    """Open the file that a checkpoint is written to; at a path it shows when the block ended well.

    :raises CheckpointError: If it can't be written.
    :raises ConfigError: If it is neither a path nor a file of bytes.
    """
    if not isinstance(to, str | os.PathLike):
        yield _binary(to, "write")
        return
    path = Path(to)
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            try:
                yield cast(BinaryIO, file)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _unusable(path, error) from error


@contextmanager
def open_for_reading(from_: PathOrFile) -> Iterator[tuple[BinaryIO, str]]:
    """Open the file that a checkpoint is read from; gives the file and its name for errors.

    :raises CheckpointError: If it can't be read.
    :raises ConfigError: If it is neither a path nor a file of bytes.
    """
    if not isinstance(from_, str | os.PathLike):
        name = getattr(from_, "name", None)
        yield _binary(from_, "read"), str(name if isinstance(name, str) else "(open file)")
        return
    path = Path(from_)
    try:
        with path.open("rb") as file:
            _require_own(path, file)
            yield file, str(path)
    except OSError as error:
        raise _unusable(path, error) from error


def _require_own(path: Path, file: BinaryIO) -> None:
    """Refuse a file that others made or may change: its values can be pickles."""
    about = os.fstat(file.fileno())
    flaw = foreign_owner(about) or changeable_by_others(about)
    if flaw is not None and stat.S_ISREG(about.st_mode):
        raise CheckpointError(
            f"the checkpoint {path} {flaw}: a pickle in it would run as this user",
            "copy it to a file of your own with mode 600, if you trust all who could write it",
        )


@contextmanager
def rewindable(file: BinaryIO, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """Give a file that can be read twice, and where it starts; a pipe goes to a temporary file.

    :raises CheckpointError: If the temporary file can't be written.
    """
    seekable = getattr(file, "seekable", None)
    if seekable is not None and seekable():
        yield file, file.tell()
        return
    with tempfile.TemporaryFile(prefix="checkpoint-") as spool:
        try:
            shutil.copyfileobj(file, spool, _SLICE)
        except OSError as error:
            raise _unusable(name, error) from error
        spool.seek(0)
        yield cast(BinaryIO, spool), 0


def _binary(file: BinaryIO, method: str) -> BinaryIO:
    if isinstance(file, io.TextIOBase) or not hasattr(file, method):
        raise ConfigError(
            f"a checkpoint can't {method} {type(file).__name__}",
            "give a path, a file open in binary mode, or another backend",
        )
    return file


def _unusable(path: Path | str, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} can't be used: {error.strerror or error}",
        "check that its folder exists, may be written, and has room",
    )
