"""Where a checkpoint file lies: a path, an open file, a pipe.

Invariant: a path shows a whole checkpoint or none: it is written aside, and moved there at the end.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from bytewax_redis_state.errors import CheckpointError, ConfigError

__all__ = ["CheckpointFile", "rewindable", "source", "target"]

CheckpointFile: TypeAlias = str | os.PathLike[str] | BinaryIO
"""A path, or a file open in binary mode; it need not be seekable, and stays open."""

_SLICE = 1 << 20


@contextmanager
def target(to: CheckpointFile) -> Iterator[BinaryIO]:
    """Open what a checkpoint is written to; at a path it shows when the block ended well.

    :raises CheckpointError: If it can't be written.
    :raises ConfigError: If it is no path and no file of bytes.
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
def source(from_: CheckpointFile) -> Iterator[tuple[BinaryIO, str]]:
    """Open what a checkpoint is read from; gives what errors call it, too.

    :raises CheckpointError: If it can't be read.
    :raises ConfigError: If it is no path and no file of bytes.
    """
    if not isinstance(from_, str | os.PathLike):
        name = getattr(from_, "name", None)
        yield _binary(from_, "read"), str(name if isinstance(name, str) else "(open file)")
        return
    path = Path(from_)
    try:
        with path.open("rb") as file:
            yield file, str(path)
    except OSError as error:
        raise _unusable(path, error) from error


@contextmanager
def rewindable(file: BinaryIO, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """Make a file that can be read twice, and say where it starts; a pipe goes to a scratch file.

    :raises CheckpointError: If the scratch file can't be written.
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
        "see that its folder is there, may be written and has room",
    )
