"""Restores: a checkpoint file into a key range. After each step the text behind it is true.

1. read the whole file once (a pipe goes to a temporary file first): it is sound to its last byte
2. look at the key range: it is empty, or the user gave ``replace`` or ``merge``
3. set the marker: any other restore is refused, and an interruption will show
4. with ``replace``, clear the key range: it is empty
5. write page by page: the key range holds every record of the file
6. remove the marker: the restore is finished

A checkpoint holds the TTL that a key had left when it was read. The TTL starts again at the
restore, so the time in between expires nothing, unless ``deadlines=True`` asks for that.

Invariant: a key range without a marker does not hold half of a checkpoint.
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
"""From a key and its stored value to the value as another key range stores it."""

RecodeFrom: TypeAlias = Callable[[bytes], Recode | None]
"""From the prefix of a checkpoint to its recoding; ``None`` if values fit as they are."""

_HEARTBEAT_SECONDS = 1.0
"""How often a running restore writes the time into its marker."""
_SILENT = 10_000
"""Milliseconds without such a write after which a restore counts as interrupted."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The counts of a finished restore.

    :arg info: The checkpoint that was restored.
    :arg keys: How many keys were written; a key that the checkpoint holds twice counts once.
    :arg replaced: How many of these keys had a value before; only a merge can find some.
    :arg expired: Records left out because their deadline has passed; only with ``deadlines``.
    """

    info: CheckpointInfo
    keys: int
    replaced: int
    expired: int


@dataclass(frozen=True, kw_only=True)
class UnfinishedRestore:
    """A restore that was begun and has not been finished.

    :arg source: The name of the file or prefix that it reads.
    :arg begun: When it was begun, by the server's clock.
    :arg running: Whether it wrote to its marker in the last ten seconds.
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
    """Find a restore into the key range that was begun and not finished.

    :arg key_range: Where to look.
    :returns: What the restore's marker says; ``None`` if there is no marker.
    """
    data = key_range.marker()
    if not data:
        return None
    try:
        marker = _Marker(**json.loads(data))
    except (ValueError, TypeError):
        # Another version wrote the marker. Half a restore is half a restore, whoever made it.
        marker = _Marker(owner="", source="an unknown source", begun=0, touched=0)
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
    """Restore a checkpoint file into a key range; the steps are in the module's docstring.

    :arg key_range: Where to write.
    :arg from_: A path, or a file open for reading bytes. The whole file is checked before anything
        is written; a file that can't be rewound goes through a temporary file.
    :arg replace: Whether to delete the keys of the key range first.
    :arg merge: Whether to keep them; the checkpoint wins where both have a key.
    :arg deadlines: Whether the time since the checkpoint was taken counts against TTLs.
    :arg recode_from: Gives the recoding of the values of a prefix.
    :arg progress: Gets records done and their number; ``True`` shows a bar on a terminal.
    :returns: The counts.
    :raises CheckpointDamagedError: If the checkpoint is cut off or altered.
    :raises NamespaceNotEmptyError: If the key range holds keys, and neither ``replace`` nor
        ``merge`` is given.
    :raises RestoreUnfinishedError: If another restore runs, or was interrupted and neither
        ``replace`` nor ``merge`` is given.
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
    """Check the file, and that every value can be recoded, before anything is written."""
    reader = CheckpointReader(file, name)
    recode = recode_from(reader.header.prefix) if recode_from else None
    for page in reader:
        if recode is not None:
            for key, value in zip(page.keys, page.values, strict=True):
                recode(key, value)
    return CheckpointInfo(reader.header, reader.counts), recode


def refuse_both(*, replace: bool, merge: bool) -> None:
    """Refuse ``replace`` and ``merge`` together: they contradict each other."""
    if replace and merge:
        raise ConfigError(
            "replace and merge are both True",
            "replace deletes the keys that are there, merge keeps them: give one of the two",
        )


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

    :arg key_range: Where to write.
    :arg source: The name of the source in markers and errors.
    :arg info: The checkpoint that is restored; of a copy it becomes known on the way.
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
        self._last_heartbeat = 0.0
        self._owner = uuid4().hex
        self._begun = 0

    def run(
        self, pages: Iterable[Page], report: OnProgress, *, replace: bool, merge: bool
    ) -> Restored:
        """Take the steps 2 to 6."""
        self._check(may_hold_keys=replace or merge)
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

    def _check(self, *, may_hold_keys: bool) -> None:
        key_range = self._key_range
        self._seen = key_range.marker()
        found = unfinished(key_range) if self._seen else None
        if found is not None and (found.running or not may_hold_keys):
            hint = (
                "wait until it is finished" if found.running else "restore again with replace=True"
            )
            raise RestoreUnfinishedError(_unfinished_text(key_range, found), hint)
        if not may_hold_keys and not key_range.is_empty():
            raise NamespaceNotEmptyError(
                f"prefix {key_range.prefix!r} at {key_range.address} holds keys",
                "give replace=True to delete them first, or merge=True to keep those that the "
                "checkpoint does not hold",
            )

    def _begin(self) -> None:
        self._begun = self._key_range.clock()
        self._heartbeat(self._begun)

    def _write(
        self, pages: Iterable[Page], report: OnProgress, *, merge: bool
    ) -> tuple[int, int, int]:
        """Write all pages; gives the numbers of keys written, replaced and left out."""
        done = written = there = 0
        now = self._key_range.clock() if self._deadlines else 0
        for page in pages:
            fit = self._fitted(page, now)
            there += self._key_range.write(fit) if fit.keys else 0
            done, written = done + len(page.keys), written + len(fit.keys)
            report(done, self.info.counts.records)
            if time.monotonic() - self._last_heartbeat > _HEARTBEAT_SECONDS:
                self._heartbeat(self._key_range.clock())
        # The key range began empty unless this is a merge, so a key that has a value was written by
        # this restore: the checkpoint holds it twice.
        return (written, there, done - written) if merge else (written - there, 0, done - written)

    def _fitted(self, page: Page, now: int) -> Page:
        if self._deadlines and page.ttls:
            page = _aged(page, now - page.at)
        if self._recode is None:
            return page
        values = [self._recode(k, v) for k, v in zip(page.keys, page.values, strict=True)]
        return page._replace(values=values)

    def _heartbeat(self, now: int) -> None:
        marker = _Marker(owner=self._owner, source=self._source, begun=self._begun, touched=now)
        self._mark(marker.to_bytes())
        self._last_heartbeat = time.monotonic()

    def _mark(self, value: bytes) -> None:
        if not self._key_range.mark(self._seen, value):
            raise RestoreUnfinishedError(
                "another restore has begun into prefix "
                f"{self._key_range.prefix!r} at {self._key_range.address}",
                "find out who else restores there, then restore again with replace=True",
            )
        self._seen = value

    def _interrupt(self) -> None:
        """Write into the marker that the restore no longer runs: nobody has to wait for silence."""
        marker = _Marker(owner=self._owner, source=self._source, begun=self._begun, touched=0)
        try:
            self._mark(marker.to_bytes())
        except StateError:
            return  # the error that ended the restore is the one to raise


def _aged(page: Page, passed: int) -> Page:
    """Take the time that has passed off each TTL, and leave out records that have expired."""
    ttls = [ttl if ttl == -1 else ttl - passed for ttl in page.ttls]
    left = [index for index, ttl in enumerate(ttls) if ttl > 0 or page.ttls[index] == -1]
    return Page(
        page.at,
        [page.keys[index] for index in left],
        [page.values[index] for index in left],
        [ttls[index] for index in left],
    )
