"""The journal: the durable log of deltas, one Redis Stream per outbox partition and generation.

An entry's ID is ``<epoch>-<number>``, its fields are ``c`` (the cell, as ``<shard>:<step>``) and
``d`` (the delta). Progress beside it says below which epoch everything is there. A row whose delta
is large becomes several entries, its pieces: Redis takes no argument above ``proto-max-bulk-len``,
512 MB, and should not be held up by a large one. The number is ``<outbox row> * 2**20 + <piece>``.

Invariant: rows enter in outbox order and once, and only while the partition is not fenced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

from bytewax_redis_state.codec.delta import pack_delta, unpack_changes
from bytewax_redis_state.errors import (
    DecodeError,
    ServerUnavailableError,
    StateLostError,
)
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.fields import Fields, damaged, whole_number
from bytewax_redis_state.recovery.records.progress import Partition, Progress
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out
from bytewax_redis_state.server.replicas import execute_confirmed

__all__ = ["Entry", "Journal", "JournalMovedError", "Place"]

_FOUND = {b"missing": "missing", b"foreign": "of another life of the flow"}
_LOOKS = 100
_PAGE = 256  # entries per XRANGE, at most
_RawEntry = tuple[bytes, dict[bytes, bytes]]
_FIRST_PAGE = 1  # until the size of an entry is known
_GROWTH = 8
_PIECE_BITS = 20
# Any Redis takes that: proto-max-bulk-len is 1 MB at least. One value alone may be larger.
_PIECE_BYTES = 512 * 1024
_PAGE_BYTES = 4 * 1024 * 1024  # of a page, about: an entry may hold a whole cell


@dataclass(frozen=True, slots=True)
class Entry:
    """What one cell changed in one epoch.

    :arg row: Of the outbox.
    :arg delta: As the journal holds it.
    :arg part: Number of the piece, of a row whose delta is in pieces.
    :arg changes: The delta taken apart, in an entry that was read: state key as UTF-8 to envelope.
    """

    epoch: int
    row: int
    cell: Cell
    delta: bytes
    part: int = 0
    changes: Mapping[bytes, bytes | None] = field(default_factory=dict, compare=False)

    @property
    def number(self) -> int:
        """Second half of the entry's ID."""
        return self.row << _PIECE_BITS | self.part

    def pieces(self) -> Iterator[Entry]:
        """Cut a large entry by state keys, always at the same ones.

        A replicator that was restarted in the midst of a row goes on with the piece after the last
        one that Redis has.
        """
        if len(self.delta) <= _PIECE_BYTES:
            yield self
            return
        part, size, piece = 0, 0, dict[str, bytes | None]()
        for key, value in unpack_changes(self.delta).items():
            more = len(key) + len(value or b"")
            if piece and size + more > _PIECE_BYTES:
                yield replace(self, delta=pack_delta(piece), part=part)
                part, size, piece = part + 1, 0, {}
            piece[key.decode()] = value
            size += more
        yield replace(self, delta=pack_delta(piece), part=part)


class Place(NamedTuple):
    """How far an outbox is in the journal.

    :arg row: The last row that is there as a whole.
    :arg part: How many pieces of the next row are there.
    """

    row: int
    part: int = 0

    def __str__(self) -> str:
        return f"{self.row}+{self.part}" if self.part else str(self.row)

    @classmethod
    def parse(cls, text: bytes) -> Place:
        """Read what a script answers.

        :raises ValueError: If it is no place.
        """
        row, _, part = text.partition(b"+")
        return cls(whole_number(row), whole_number(part or b"0"))


class JournalMovedError(Exception):
    """Redis stands at another place than the replicator thought; go on from there."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


class Journal:
    """The journal and the progress of one outbox partition in one generation.

    :arg store: The flow in Redis, under the token whose journal it is.
    :arg partition: Number of the outbox partition.
    """

    def __init__(self, store: FencedStore, partition: int) -> None:
        self._store = store
        self._keys = store.keys
        self._client = store.client
        self._scripts = store.scripts
        self._journal = store.keys.journal(partition, store.token.generation)
        self._progress = store.keys.progress(partition, store.token.generation)
        self._incarnation = store.incarnation
        self._generation = store.generation
        self._partition = partition

    def create(self, epoch: int) -> None:
        """Make both keys, with nothing below the resume epoch, on all replicas.

        :raises FencedError: If another start has made them.
        """
        (made,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.create_partition(
                self._journal, self._progress, self._incarnation, self._generation, epoch, pipe
            ),
        )
        self._store.require_own([made], refusal=0)

    def append(
        self, before: Place | int, after: Place | int, entries: Sequence[Entry], epoch: int | None
    ) -> None:
        """Append entries and move the place, and progress where an epoch is given.

        :arg before: The place, or the last row, at which Redis should stand now.
        :arg after: Where it stands then.
        :arg entries: In outbox order.
        :arg epoch: Everything below it is in the journal then; ``None`` leaves progress.
        :raises JournalMovedError: If Redis stands at another place; nothing was written.
        :raises FencedError: If another execution took over; nothing was written.
        :raises StateLostError: If the keys are gone or of another life; nothing was written.
        """
        flat: list[bytes | str | int] = []
        for entry in entries:
            flat += (entry.epoch, entry.number, entry.cell.to_bytes(), entry.delta)
        verdict = self._scripts.append(
            self._journal,
            self._progress,
            self._incarnation,
            self._generation,
            str(before),
            str(after),
            epoch,
            flat,
        )
        self._raise_refusal(verdict)

    def _raise_refusal(self, verdict: list[bytes]) -> None:
        match verdict[0]:
            case b"ok":
                return
            case b"moved":
                raise JournalMovedError(self._place(verdict[1]))
            case b"fenced":
                raise self._store.overtaken(by=verdict[1])
            case _:
                raise StateLostError(
                    f"the journal {self._journal.decode()!r} is {_FOUND[verdict[0]]} in Redis",
                    way_out(self._keys),
                )

    def _place(self, value: bytes) -> Place:
        try:
            return Place.parse(value)
        except ValueError:
            raise damaged(self._keys, self._progress, "row", value, "a whole number") from None

    def fence(self, by: Token) -> Progress:
        """Shut the partition for its writer and read how far it came, in one step.

        :arg by: The start that fences.
        :returns: How far it came.
        :raises StateLostError: If its keys are gone, damaged or of another writer, or if entries
            are missing that were appended.
        """
        (answer,) = execute_confirmed(
            self._client,
            lambda pipe: self._scripts.fence_partition(
                self._journal, self._progress, self._incarnation, self._generation, str(by), pipe
            ),
        )
        flat, *found = answer
        return self._require_whole(dict(zip(flat[::2], flat[1::2], strict=True)), *found)

    def look(self) -> Progress:
        """Read how far the partition is; needs no right but to read.

        :raises StateLostError: As :meth:`fence`.
        """
        for _ in range(_LOOKS):
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self._progress)
                pipe.exists(self._journal)
                pipe.xlen(self._journal)
                pipe.xrevrange(self._journal, count=1)
                pipe.hgetall(self._progress)
                before, exists, held, newest, after = pipe.execute()
            if before == after:  # else an append or a trim has come in between
                break
        return self._require_whole(after, exists, held, newest[0][0] if newest else b"")

    def _require_whole(
        self, fields: Mapping[bytes, bytes], exists: int, held: int, newest: bytes
    ) -> Progress:
        number, generation = self._partition, self._store.token.generation
        found = Partition(
            self._keys, number, generation, fields, bool(exists), held, newest.decode()
        )
        progress = found.require_whole(self._incarnation)
        if progress.token != self._store.token:
            raise StateLostError(
                f"the progress {self._progress.decode()!r} is of generation {progress.token}, "
                f"not {self._generation}",
                way_out(self._keys),
            )
        return progress

    def entries(
        self, from_epoch: int, to_epoch: int, *, committed: bool = False
    ) -> Iterator[Entry]:
        """Read the entries of a range of epochs, both ends included, page by page.

        :arg committed: Insist that all of them are there.
        :raises StateLostError: If one is damaged; names it.
        :raises ServerUnavailableError: If Redis has lost the last of them.
        """
        start, end = f"{from_epoch}-0", f"{to_epoch}-18446744073709551615"
        count = _FIRST_PAGE
        while True:
            # Progress once more, then the page, by one connection: what Redis has lost since the
            # caller looked would be missing in the page, and its epoch would count as folded.
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hget(self._progress, "epoch")
                pipe.xrange(self._journal, min=start, max=end, count=count)
                progress, page = cast("tuple[bytes | None, list[_RawEntry]]", tuple(pipe.execute()))
            if committed:
                self._require_committed(progress, to_epoch)
            size = 1
            for entry_id, fields in page:
                size += len(fields.get(b"d", b""))
                yield self._entry(entry_id, fields)
            if len(page) < count:
                return
            start = f"({page[-1][0].decode()}"
            # Not too many at once: the next ones may be larger.
            count = max(1, min(_PAGE, _GROWTH * count, len(page) * _PAGE_BYTES // size))

    def _require_committed(self, epoch: bytes | None, to_epoch: int) -> None:
        found = {} if epoch is None else {b"epoch": epoch}
        progress = Fields(self._keys, self._progress, found).number("epoch")
        if progress <= to_epoch:
            raise ServerUnavailableError(
                f"the journal {self._journal.decode()!r} ends before epoch {progress}, "
                f"not after {to_epoch}: Redis has lost its last writes"
            )

    def _entry(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
        epoch, _, number = entry_id.partition(b"-")
        row, part = divmod(int(number), 1 << _PIECE_BITS)
        try:
            cell, changes = Cell.from_bytes(fields[b"c"]), unpack_changes(fields[b"d"])
        except (DecodeError, KeyError, ValueError) as error:
            what = f"field {error}" if isinstance(error, KeyError) else str(error)
            raise StateLostError(
                f"entry {entry_id.decode()} of the journal {self._journal.decode()!r} is damaged: "
                f"{what}; another program may have written here",
                way_out(self._keys),
            ) from error
        return Entry(int(epoch), row, cell, fields[b"d"], part, changes)

    def trim(self, below: int, run_id: str = "") -> None:
        """Drop what every cell has applied.

        :arg below: First epoch that stays.
        :arg run_id: Of the server before the fold: one that was started since then may have lost
            the fold, and drops nothing.
        :raises FencedError: If the partition is no longer the caller's.
        :raises StateLostError: If its keys are gone or of another life.
        """
        trimmed = self._scripts.trim_journal(
            self._journal, self._progress, self._incarnation, self._generation, below, run_id
        )
        if trimmed is None:
            self._raise_refusal(self._ask_refusal())
        elif trimmed < 0:  # not fenced: emptied, and perhaps to be filled again
            raise StateLostError(
                f"the progress {self._progress.decode()!r} is missing in Redis", way_out(self._keys)
            )

    def _ask_refusal(self) -> list[bytes]:
        """Ask why the partition is no longer the writer's, as :meth:`append` would be told."""
        found = self._client.hmget(self._progress, "incarnation", "generation", "fenced")
        life, writer, by = cast("list[bytes | None]", found)
        if life is None or writer is None:
            return [b"missing"]
        if life.decode() != self._incarnation:
            return [b"foreign", life]
        return [b"fenced", by if by and writer.decode() == self._generation else writer]

    def delete(self) -> None:
        """Delete both keys."""
        self._client.unlink(self._journal, self._progress)

    def delete_fenced(self, by: Token, run_id: str) -> None:
        """Delete both keys, unless Redis has gone back since they were fenced.

        :arg by: Who fenced the partition.
        :arg run_id: Of the server then, empty where there are several.
        """
        self._scripts.delete_partition(self._journal, self._progress, str(by), run_id)
