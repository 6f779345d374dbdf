"""Restores: what a checkpoint holds into a key range, in steps, after each of which this is true.

1. read the whole source once (a pipe goes to a scratch file first): it is sound to its last byte
2. look at the key range: it is empty, or the user said ``replace`` or ``merge``
3. set the marker: any other restore is refused, and an interruption will show
4. with ``replace``, clear the key range: it is empty
5. write page by page: the key range holds what the source holds
6. take the marker away: the restore is finished

Times to live are stored as what was left when the key was read, and counted from the restore on:
time between checkpoint and restore expires nothing, unless ``deadlines=True`` asks for that.

Invariant: a key range without a marker holds no half of a checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import BinaryIO, TypeAlias
from uuid import uuid4

from bytewax_redis_state.backend.dump.checkpoint_file import (
    CheckpointInfo,
    CheckpointReader,
    Page,
)
from bytewax_redis_state.backend.dump.file_access import (
    PathOrFile,
    open_for_reading,
    rewindable,
)
from bytewax_redis_state.backend.dump.key_range import KeyRange
from bytewax_redis_state.backend.dump.progress_bar import OnProgress, reporting
from bytewax_redis_state.errors import (
    ConfigError,
    NamespaceNotEmptyError,
    RestoreUnfinishedError,
    StateError,
)

__all__ = [
    "Recode",
    "RecodeFrom",
    "Restoration",
    "Restored",
    "UnfinishedRestore",
    "refuse_both",
    "refuse_unfinished",
    "restore",
    "unfinished",
]

Recode: TypeAlias = Callable[[bytes, bytes], bytes]
"""A key and its stored value to the value as another key range stores it."""

RecodeFrom: TypeAlias = Callable[[bytes], Recode | None]
"""The prefix that values come from to what recodes them; ``None`` where they fit as they are."""

_TOUCH = 1.0  # seconds between two signs of life in a marker
_SILENT = 10_000  # milliseconds without one after which a restore counts as interrupted


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


def unfinished(key_range: KeyRange) -> UnfinishedRestore | None:
    """Tell whether a restore into the key range was begun and not finished.

    :arg key_range: Where to look.
    :returns: What its marker says; ``None`` where all is well.
    """
    data = key_range.marker()
    if not data:
        return None
    try:
        marker = _Marker(**json.loads(data))
    except (ValueError, TypeError):  # another version's: it is there, and that is what counts
        marker = _Marker(owner="", source="something unknown", begun=0, touched=0)
    return UnfinishedRestore(
        source=marker.source,
        begun=datetime.fromtimestamp(marker.begun / 1000, timezone.utc),
        running=key_range.clock() - marker.touched < _SILENT,
    )


def restore(
    key_range: KeyRange,
    from_: PathOrFile,
    *,
    replace: bool = False,
    merge: bool = False,
    deadlines: bool = False,
    recode_from: RecodeFrom | None = None,
    progress: OnProgress | bool = False,
) -> Restored:
    """Write what a checkpoint holds into a key range; for the steps see the module.

    :arg key_range: Where to.
    :arg from_: A path, or a file open for reading bytes. All of it is checked before anything is
        written; one that can't be rewound goes through a scratch file.
    :arg replace: Whether to delete what the key range holds first.
    :arg merge: Whether to keep it; the checkpoint wins where both have a key.
    :arg deadlines: Whether times to live go on while the checkpoint lies about.
    :arg recode_from: Tells for a prefix how its values are made fit for the key range.
    :arg progress: Gets records done and their number; ``True`` shows a bar on a terminal.
    :returns: What it did.
    :raises CheckpointDamagedError: If the checkpoint is cut off or altered.
    :raises NamespaceNotEmptyError: If the key range holds keys, and neither is said.
    :raises RestoreUnfinishedError: If another restore runs, or was interrupted and neither is said.
    """
    refuse_both(replace=replace, merge=merge)
    with open_for_reading(from_) as (file, name), rewindable(file, name) as (sound, start):
        info, recode = _read_through(sound, name, recode_from)
        sound.seek(start)
        restoration = Restoration(key_range, name, info, deadlines=deadlines, recode=recode)
        with reporting(progress, "restore") as report:
            reader = CheckpointReader(sound, name)
            return restoration.run(reader, report, replace=replace, merge=merge)


def _read_through(
    file: BinaryIO, name: str, recode_from: RecodeFrom | None
) -> tuple[CheckpointInfo, Recode | None]:
    """Read all, and see that all can be made fit, before anything is written."""
    reader = CheckpointReader(file, name)
    recode = recode_from(reader.header.prefix) if recode_from else None
    for page in reader:
        if recode is not None:
            for key, value in zip(page.keys, page.values, strict=True):
                recode(key, value)
    return CheckpointInfo(reader.header, reader.counts), recode


def refuse_both(*, replace: bool, merge: bool) -> None:
    """Refuse two wishes that contradict each other."""
    if replace and merge:
        raise ConfigError("replace and merge are both True", "say which of them")


def refuse_unfinished(key_range: KeyRange, hint: str) -> None:
    """Refuse a key range that holds half a restore."""
    found = unfinished(key_range)
    if found is not None:
        raise RestoreUnfinishedError(_unfinished_text(key_range, found), hint)


def _unfinished_text(key_range: KeyRange, found: UnfinishedRestore) -> str:
    state = "is under way" if found.running else "was interrupted"
    return (
        f"a restore into prefix {key_range.prefix!r} at {key_range.address} {state}: begun "
        f"{found.begun:%Y-%m-%d %H:%M:%S} UTC, from {found.source}"
    )


class Restoration:
    """One restore into one key range, from any source of pages.

    :arg key_range: Where to.
    :arg source: What markers and errors call the source.
    :arg info: What is restored; may become known on the way.
    :arg deadlines: As for :func:`restore`, and so on.
    """

    def __init__(
        self,
        key_range: KeyRange,
        source: str,
        info: CheckpointInfo,
        *,
        deadlines: bool = False,
        recode: Recode | None = None,
    ) -> None:
        self.info = info
        self._key_range = key_range
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
        """Take the steps 2 to 6."""
        self._look(free=replace or merge)
        self._begin()
        try:
            if replace:
                self._key_range.clear()
            keys, replaced, expired = self._write(pages, report, merge=merge)
        except BaseException:
            self._interrupt()
            raise
        self._mark(b"")
        return Restored(info=self.info, keys=keys, replaced=replaced, expired=expired)

    def _look(self, *, free: bool) -> None:
        key_range = self._key_range
        self._seen = key_range.marker()
        found = unfinished(key_range) if self._seen else None
        if found is not None and (found.running or not free):
            hint = "wait for it" if found.running else "restore again with replace=True"
            raise RestoreUnfinishedError(_unfinished_text(key_range, found), hint)
        if not free and not key_range.is_empty():
            raise NamespaceNotEmptyError(
                f"prefix {key_range.prefix!r} at {key_range.address} holds keys",
                "say replace=True to delete them, or merge=True to keep what is not overwritten",
            )

    def _begin(self) -> None:
        self._begun = self._key_range.clock()
        self._touch(self._begun)

    def _write(
        self, pages: Iterable[Page], report: OnProgress, *, merge: bool
    ) -> tuple[int, int, int]:
        """Write all pages; gives keys, those that were there, and those left out."""
        done = written = there = 0
        now = self._key_range.clock() if self._deadlines else 0
        for page in pages:
            fit = self._fit(page, now)
            there += self._key_range.write(fit) if fit.keys else 0
            done, written = done + len(page.keys), written + len(fit.keys)
            report(done, self.info.counts.records)
            if time.monotonic() - self._touched > _TOUCH:
                self._touch(self._key_range.clock())
        # What is there in a key range that began empty was written by this restore.
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
        if not self._key_range.mark(self._seen, value):
            raise RestoreUnfinishedError(
                "another restore has begun into prefix "
                f"{self._key_range.prefix!r} at {self._key_range.address}",
                "find out who else restores there, then restore again with replace=True",
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
