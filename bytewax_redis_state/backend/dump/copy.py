"""Copies: all keys of a key range to another one, with no file in between.

Invariant: a copy takes the steps of a restore, so an interrupted one is noticed in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

from bytewax_redis_state.backend.dump.checkpoint_file import CheckpointInfo, Counts, Header, Page
from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.dump.progress_bar import OnProgress, reporting
from bytewax_redis_state.backend.dump.restoration import (
    Recode,
    Restoration,
    Restored,
    refuse_both,
    refuse_unfinished,
)
from bytewax_redis_state.errors import CheckpointError

__all__ = ["copy"]


def copy(
    source: KeyRange,
    target: KeyRange,
    *,
    replace: bool = False,
    merge: bool = False,
    recode: Recode | None = None,
    progress: OnProgress | bool = False,
) -> Restored:
    """Copy a key range into another one, with the time that its keys have left to live.

    :arg source: Where to read.
    :arg target: Where to write; on the same server or on another one.
    :arg replace: As for :func:`.restoration.restore`, and so on.
    :raises CheckpointError: If one of the two is a part of the other.
    """
    refuse_both(replace=replace, merge=merge)
    refuse_unfinished(source, "copy nothing from half a restore: finish it first")
    nested = target.prefix.startswith(source.prefix) or source.prefix.startswith(target.prefix)
    if nested and source.identity() == target.identity():
        raise CheckpointError(
            f"prefix {source.prefix!r} and prefix {target.prefix!r} are in one database, and one "
            "is a part of the other",
            "copy to a prefix that neither begins with the other",
        )
    header = Header(
        compression="none", prefix=source.prefix, created=source.clock(), server=source.server()
    )
    name = f"prefix {source.prefix!r} at {source.address}"
    restoration = Restoration(target, name, CheckpointInfo(header, Counts()), recode=recode)
    with reporting(progress, "copy") as report:
        pages = _counted(source, restoration, report)
        return restoration.run(pages, lambda *_: None, replace=replace, merge=merge)


def _counted(source: KeyRange, restoration: Restoration, report: OnProgress) -> Iterator[Page]:
    for read in source.read():
        counts = restoration.info.counts.plus(read.page, read.vanished)
        restoration.info = CheckpointInfo(restoration.info.header, counts)
        yield read.page
        report(counts.records, read.total)
