"""Checkpoints: a region to a file or to another region, in bounded memory.

A checkpoint is no snapshot of one moment: each key is as it was when it was read. What was there
from beginning to end is in it; what was written meanwhile may be. How it is restored: see
:mod:`.restoration`.

Invariant: what is held in memory is a few pages, whatever the size of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.dump.place import CheckpointFile, source, target
from bytewax_redis_state.backend.dump.progress import OnProgress, reporting
from bytewax_redis_state.backend.dump.restoration import (
    Recode,
    Restoration,
    Restored,
    refuse_both,
    refuse_unfinished,
)
from bytewax_redis_state.errors import CheckpointError

__all__ = ["copy", "save", "verify"]


def save(
    region: KeyRange, to: CheckpointFile, *, progress: OnProgress | bool = False
) -> CheckpointInfo:
    """Write a checkpoint of a region.

    At a path it appears when it is complete, in place of what was there: an interrupted one leaves
    the old file as it was. In an open file an interrupted one has no end, and is refused later.

    :arg region: What to read.
    :arg to: A path, or a file open for writing bytes.
    :arg progress: Gets records done and an estimate of all; ``True`` shows a bar on a terminal.
    :returns: What :func:`verify` says of it.
    :raises CheckpointError: If a restore into the region is unfinished, a key is no string, or
        the server restarted meanwhile.
    """
    refuse_unfinished(region, "take no checkpoint of half a restore: finish it first")
    with target(to) as file, reporting(progress, "checkpoint") as report:
        header = Header(
            compression=best_compression(),
            prefix=region.prefix,
            created=region.clock(),
            server=region.server(),
        )
        writer = CheckpointWriter(file, header)
        counts = _in_turn(region, writer.write, report)
        writer.finish(counts)
    return CheckpointInfo(header, counts)


def verify(from_: CheckpointFile) -> CheckpointInfo:
    """Read a checkpoint to its end and check every byte; needs no server.

    :arg from_: A path, or a file open for reading bytes.
    :returns: What it is and holds.
    :raises CheckpointDamagedError: If any byte is missing, altered or too many.
    :raises CheckpointError: If it can't be read.
    """
    with source(from_) as (file, name):
        return read_info(file, name)


def copy(
    region: KeyRange,
    to: KeyRange,
    *,
    replace: bool = False,
    merge: bool = False,
    recode: Recode | None = None,
    progress: OnProgress | bool = False,
) -> Restored:
    """Copy a region into another one, with what its keys have left to live.

    :arg region: What to read.
    :arg to: Where to; on the same or on another server.
    :arg replace: As for :func:`restore`, and so on.
    :raises CheckpointError: If the one is a part of the other.
    """
    refuse_both(replace=replace, merge=merge)
    refuse_unfinished(region, "copy nothing from half a restore: finish it first")
    nested = to.prefix.startswith(region.prefix) or region.prefix.startswith(to.prefix)
    if nested and region.identity() == to.identity():
        raise CheckpointError(
            f"prefix {region.prefix!r} and prefix {to.prefix!r} are in one database, and one is a "
            "part of the other",
            "copy to a prefix that neither begins with the other",
        )
    header = Header(
        compression="none", prefix=region.prefix, created=region.clock(), server=region.server()
    )
    name = f"prefix {region.prefix!r} at {region.address}"
    restoration = Restoration(to, name, CheckpointInfo(header, Counts()), recode=recode)
    with reporting(progress, "copy") as report:
        pages = _counted(region, restoration, report)
        return restoration.run(pages, lambda *_: None, replace=replace, merge=merge)


def _counted(region: KeyRange, restoration: Restoration, report: OnProgress) -> Iterator[Page]:
    for reading in region.read():
        counts = restoration.info.counts.plus(reading.page, reading.vanished)
        restoration.info = CheckpointInfo(restoration.info.header, counts)
        yield reading.page
        report(counts.records, reading.total)


def _in_turn(region: KeyRange, write: Callable[[Page], None], report: OnProgress) -> Counts:
    """Pass pages on, one being compressed and written while the next one is read."""
    counts, pending = Counts(), None
    with ThreadPoolExecutor(1, "checkpoint") as lane:
        for page, vanished, total in region.read():
            counts = counts.plus(page, vanished)
            _settle(pending)
            pending = lane.submit(write, page) if page.keys else None
            report(counts.records, total)
        _settle(pending)
    return counts


def _settle(pending: Future[None] | None) -> None:
    if pending is not None:
        pending.result()
