"""Checkpoints: a region to a file or to another region, and back, in bounded memory.

A checkpoint is no snapshot of one moment: each key is as it was when it was read. What was there
from beginning to end is in it; what was written meanwhile may be.

A restore goes in these steps; after each, this is true:

1. read the whole source once (a pipe goes to a scratch file first): it is sound to its last byte
2. look at the region: it is empty, or the user said ``replace`` or ``merge``
3. set the marker: any other restore is refused, and an interruption will show
4. with ``replace``, clear the region: it is empty
5. write page by page: the region holds what the source holds
6. take the marker away: the restore is finished

Times to live are stored as what was left when the key was read, and counted from the restore on:
time between checkpoint and restore expires nothing, unless ``deadlines=True`` asks for that.

Invariant: a region without a marker holds no half of a checkpoint.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast
from uuid import uuid4

from bytewax_redis_state.backend.checkpoint_file import (
    CheckpointInfo,
    CheckpointReader,
    CheckpointWriter,
    Counts,
    Header,
    Page,
    best_compression,
    read_info,
)
from bytewax_redis_state.backend.progress import OnProgress, reporting
from bytewax_redis_state.backend.region import Region
from bytewax_redis_state.errors import (
    CheckpointError,
    ConfigError,
    NamespaceNotEmptyError,
    RestoreUnfinishedError,
    StateError,
)

__all__ = [
    "CheckpointFile",
    "Recode",
    "Restored",
    "UnfinishedRestore",
    "copy",
    "restore",
    "save",
    "unfinished",
    "verify",
]

CheckpointFile: TypeAlias = "str | os.PathLike[str] | BinaryIO"
"""A path, or a file open in binary mode; it need not be seekable, and stays open."""

Recode = Callable[[bytes, bytes], bytes]
"""A key and its stored value to the value as another region stores it."""

_TOUCH = 1.0  # seconds between two signs of life in a marker
_SILENT = 10_000  # milliseconds without one after which a restore counts as interrupted
_SLICE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore did.

    :arg info: What it was made from.
    :arg keys: How many keys it wrote; a key that the checkpoint holds twice counts once.
    :arg replaced: How many of them were there before; only a merge can find some.
    :arg expired: Records left out because their deadline has passed; only with ``deadlines``.
    """

    info: CheckpointInfo
    keys: int
    replaced: int
    expired: int


@dataclass(frozen=True, kw_only=True)
class UnfinishedRestore:
    """A restore that was begun and has not been finished.

    :arg source: What it was made from.
    :arg begun: When, by the server's clock.
    :arg running: Whether it gave a sign of life in the last ten seconds.
    """

    source: str
    begun: datetime
    running: bool


@dataclass(frozen=True, kw_only=True)
class _Marker:
    owner: str
    source: str
    begun: int
    touched: int

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def unfinished(region: Region) -> UnfinishedRestore | None:
    """Tell whether a restore into the region was begun and not finished.

    :arg region: Where to look.
    :returns: What its marker says; ``None`` where all is well.
    """
    data = region.marker()
    if not data:
        return None
    try:
        marker = _Marker(**json.loads(data))
    except (ValueError, TypeError):  # another version's: it is there, and that is what counts
        marker = _Marker(owner="", source="something unknown", begun=0, touched=0)
    return UnfinishedRestore(
        source=marker.source,
        begun=datetime.fromtimestamp(marker.begun / 1000, timezone.utc),
        running=region.clock() - marker.touched < _SILENT,
    )


def save(
    region: Region, to: CheckpointFile, *, progress: OnProgress | bool = False
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
    _refuse_unfinished(region, "take no checkpoint of half a restore: finish it first")
    with _target(to) as file, reporting(progress, "checkpoint") as report:
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
    with _source(from_) as (file, name):
        return read_info(file, name)


def restore(
    region: Region,
    from_: CheckpointFile,
    *,
    replace: bool = False,
    merge: bool = False,
    deadlines: bool = False,
    recode: Recode | None = None,
    progress: OnProgress | bool = False,
) -> Restored:
    """Write what a checkpoint holds into a region; for the steps see the module.

    :arg region: Where to.
    :arg from_: A path, or a file open for reading bytes. All of it is checked before anything is
        written; one that can't be rewound goes through a scratch file.
    :arg replace: Whether to delete what the region holds first.
    :arg merge: Whether to keep it; the checkpoint wins where both have a key.
    :arg deadlines: Whether times to live go on while the checkpoint lies about.
    :arg recode: Makes values fit for the region; ``None`` to write them as they are.
    :arg progress: Gets records done and their number; ``True`` shows a bar on a terminal.
    :returns: What it did.
    :raises CheckpointDamagedError: If the checkpoint is cut off or altered.
    :raises NamespaceNotEmptyError: If the region holds keys, and neither is said.
    :raises RestoreUnfinishedError: If another restore runs, or was interrupted and neither is said.
    """
    _refuse_both(replace=replace, merge=merge)
    with _source(from_) as (file, name), _rewindable(file, name) as (sound, start):
        info = read_info(sound, name)
        sound.seek(start)
        restoration = _Restoration(region, name, info, deadlines=deadlines, recode=recode)
        with reporting(progress, "restore") as report:
            reader = CheckpointReader(sound, name)
            return restoration.run(reader, report, replace=replace, merge=merge)


def copy(
    region: Region,
    to: Region,
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
    _refuse_both(replace=replace, merge=merge)
    _refuse_unfinished(region, "copy nothing from half a restore: finish it first")
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
    source = f"prefix {region.prefix!r} at {region.address}"
    restoration = _Restoration(to, source, CheckpointInfo(header, Counts()), recode=recode)
    with reporting(progress, "copy") as report:
        pages = _counted(region, restoration, report)
        return restoration.run(pages, lambda *_: None, replace=replace, merge=merge)


def _counted(region: Region, restoration: _Restoration, report: OnProgress) -> Iterator[Page]:
    for reading in region.read():
        counts = restoration.info.counts.plus(reading.page, reading.vanished)
        restoration.info = CheckpointInfo(restoration.info.header, counts)
        yield reading.page
        report(counts.records, reading.total)


def _refuse_both(*, replace: bool, merge: bool) -> None:
    if replace and merge:
        raise ConfigError("replace and merge are both True", "say which of them")


def _refuse_unfinished(region: Region, hint: str) -> None:
    found = unfinished(region)
    if found is not None:
        raise RestoreUnfinishedError(_unfinished_text(region, found), hint)


def _unfinished_text(region: Region, found: UnfinishedRestore) -> str:
    state = "is under way" if found.running else "was interrupted"
    return (
        f"a restore into prefix {region.prefix!r} at {region.address} {state}: begun "
        f"{found.begun:%Y-%m-%d %H:%M:%S} UTC, from {found.source}"
    )


def _in_turn(region: Region, write: Callable[[Page], None], report: OnProgress) -> Counts:
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


class _Restoration:
    """One restore into one region, from any source of pages."""

    def __init__(
        self,
        region: Region,
        source: str,
        info: CheckpointInfo,
        *,
        deadlines: bool = False,
        recode: Recode | None = None,
    ) -> None:
        self.info = info
        self._region = region
        self._source = source
        self._deadlines = deadlines
        self._recode = recode
        self._seen = b""
        self._touched = 0.0
        self._owner = uuid4().hex
        self._begun = 0

    def run(
        self, pages: Iterable[Page], report: OnProgress, *, replace: bool, merge: bool
    ) -> Restored:
        self._look(free=replace or merge)
        self._begin()
        try:
            if replace:
                self._region.clear()
            keys, replaced, expired = self._write(pages, report, merge=merge)
        except BaseException:
            self._interrupt()
            raise
        self._mark(b"")
        return Restored(info=self.info, keys=keys, replaced=replaced, expired=expired)

    def _look(self, *, free: bool) -> None:
        region = self._region
        self._seen = region.marker()
        found = unfinished(region) if self._seen else None
        if found is not None and (found.running or not free):
            hint = "wait for it" if found.running else "restore again with replace=True"
            raise RestoreUnfinishedError(_unfinished_text(region, found), hint)
        if not free and not region.is_empty():
            raise NamespaceNotEmptyError(
                f"prefix {region.prefix!r} at {region.address} holds keys",
                "say replace=True to delete them, or merge=True to keep what is not overwritten",
            )

    def _begin(self) -> None:
        self._begun = self._region.clock()
        self._touch(self._begun)

    def _write(
        self, pages: Iterable[Page], report: OnProgress, *, merge: bool
    ) -> tuple[int, int, int]:
        """Write all pages; gives keys, those that were there, and those left out."""
        done = written = there = 0
        now = self._region.clock() if self._deadlines else 0
        for page in pages:
            fit = self._fit(page, now)
            there += self._region.write(fit) if fit.keys else 0
            done, written = done + len(page.keys), written + len(fit.keys)
            report(done, self.info.counts.records)
            if time.monotonic() - self._touched > _TOUCH:
                self._touch(self._region.clock())
        # What is there in a region that began empty was written by this restore.
        return (written, there, done - written) if merge else (written - there, 0, done - written)

    def _fit(self, page: Page, now: int) -> Page:
        if self._deadlines and page.ttls:
            page = _aged(page, now - page.at)
        if self._recode is None:
            return page
        values = [self._recode(k, v) for k, v in zip(page.keys, page.values, strict=True)]
        return page._replace(values=values)

    def _touch(self, now: int) -> None:
        marker = _Marker(owner=self._owner, source=self._source, begun=self._begun, touched=now)
        self._mark(marker.to_bytes())
        self._touched = time.monotonic()

    def _mark(self, value: bytes) -> None:
        if not self._region.mark(self._seen, value):
            raise RestoreUnfinishedError(
                f"another restore into prefix {self._region.prefix!r} at {self._region.address} "
                "has begun",
                "see who else restores there, then restore again with replace=True",
            )
        self._seen = value

    def _interrupt(self) -> None:
        """Say in the marker that nobody works on it any more; without that, time will tell."""
        marker = _Marker(owner=self._owner, source=self._source, begun=self._begun, touched=0)
        try:
            self._mark(marker.to_bytes())
        except StateError:
            return  # the error that led here is the one to tell


def _aged(page: Page, passed: int) -> Page:
    """Take time off what is left, and leave out what is over."""
    ttls = [ttl if ttl == -1 else ttl - passed for ttl in page.ttls]
    left = [index for index, ttl in enumerate(ttls) if ttl > 0 or page.ttls[index] == -1]
    return Page(
        page.at,
        [page.keys[index] for index in left],
        [page.values[index] for index in left],
        [ttls[index] for index in left],
    )


@contextmanager
def _target(to: CheckpointFile) -> Iterator[BinaryIO]:
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
def _source(from_: CheckpointFile) -> Iterator[tuple[BinaryIO, str]]:
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
def _rewindable(file: BinaryIO, name: str) -> Iterator[tuple[BinaryIO, int]]:
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
