"""Dumps: all keys of a key range to a checkpoint file, in bounded memory.

A dump is no snapshot of one moment: each key is as it was when it was read. A key that was there
from beginning to end is in the dump; a key that was written meanwhile may be. How a checkpoint file
is restored: see :mod:`.restoration`.

Invariant: a few pages are held in memory, whatever the size of the key range.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from bytewax_redis_state.backend.dump.checkpoint_file import (
    CheckpointInfo,
    CheckpointWriter,
    Counts,
    Header,
    Page,
    best_compression,
    read_info,
)
from bytewax_redis_state.backend.dump.file_access import (
    PathOrFile,
    open_for_reading,
    open_for_writing,
)
from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.dump.progress_bar import OnProgress, reporting
from bytewax_redis_state.backend.dump.restoration import refuse_unfinished

__all__ = ["save", "verify"]


def save(
    key_range: KeyRange, to: PathOrFile, *, progress: OnProgress | bool = False
) -> CheckpointInfo:
    """Write a checkpoint file of a key range.

    At a path the file appears when it is complete, in place of an older one: an interrupted dump
    leaves the older file as it was. An open file has no last frame after an interrupted dump, and
    is refused when it is read.

    :arg key_range: Where to read.
    :arg to: A path, or a file open for writing bytes.
    :arg progress: Gets records done and an estimate of all; ``True`` shows a bar on a terminal.
    :returns: The same as :func:`verify` gives for the file.
    :raises CheckpointError: If a restore into the key range is unfinished, a key holds no string,
        or the server restarted meanwhile.
    """
    refuse_unfinished(key_range, "take no checkpoint of half a restore: finish it first")
    with open_for_writing(to) as file, reporting(progress, "checkpoint") as report:
        header = Header(
            compression=best_compression(),
            prefix=key_range.prefix,
            created=key_range.clock(),
            server=key_range.server(),
        )
        writer = CheckpointWriter(file, header)
        counts = _write_pages(key_range, writer.write, report)
        writer.finish(counts)
    return CheckpointInfo(header, counts)


def verify(from_: PathOrFile) -> CheckpointInfo:
    """Read a checkpoint file to its end and check every byte; needs no server.

    :arg from_: A path, or a file open for reading bytes.
    :returns: Its header and its counts.
    :raises CheckpointDamagedError: If any byte is missing, altered or too many.
    :raises CheckpointError: If it can't be read.
    """
    with open_for_reading(from_) as (file, name):
        return read_info(file, name)


def _write_pages(key_range: KeyRange, write: Callable[[Page], None], report: OnProgress) -> Counts:
    """Compress and write one page while the next one is read."""
    counts, pending = Counts(), None
    # One thread, and one page given to it at a time: pages stay in order, and memory stays small.
    with ThreadPoolExecutor(1, "checkpoint") as writing:
        for page, vanished, total in key_range.read():
            counts = counts.plus(page, vanished)
            _raise_error_of(pending)
            pending = writing.submit(write, page) if page.keys else None
            report(counts.records, total)
        _raise_error_of(pending)
    return counts


def _raise_error_of(pending: Future[None] | None) -> None:
    """Wait for the page that is being written."""
    if pending is not None:
        pending.result()
