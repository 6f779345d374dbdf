"""The fold: a journal's epochs go into the keyed state. A checkpoint is a fold every interval.

The unit is the cell. A fold says from which epoch to which it goes; a cell skips what it has
applied and refuses what would leave a gap. Each partition of a generation has its own applied
epoch in a cell (field ``p<i>``), because the rows of sources and sinks of one cell can come
through several partitions; what the cell as a whole has applied is in ``epoch``.

Invariant: keys, applied epoch and live count of a cell change in one script; a reader that finds a
mark in the cell knows that a fold of more than one chunk is under way. The mark also keeps the
chunks of a fold together: one that follows a lost one is refused, and a late one of an older fold.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

from typing_extensions import Self

from bytewax_redis_state.errors import ServerUnavailableError, StateLostError
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.journal import Journal
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["CellBehindError", "JournalFold"]

_CHUNK_KEYS = 1000
_CHUNK_BYTES = 1024 * 1024
_ROUND_BYTES = 16 * 1024 * 1024
_PIPELINE_CHUNKS = 16
_CHANNELS = 2


class CellBehindError(StateLostError):
    """A cell has applied less than the fold begins after: a failover has lost its last folds."""


@dataclass
class _Round:
    """The changes of a range of epochs, coalesced: the last one of each key counts."""

    to_epoch: int = 0
    size: int = 0
    changes: dict[Cell, dict[bytes, bytes | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chunk:
    """Some changes of a cell; ``keys`` are those to set and then those to delete."""

    cell: Cell
    keys: Sequence[bytes]
    values: Sequence[bytes]
    number: int
    last: bool

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return sum(map(len, self.values))


class JournalFold:
    """Folds one partition's journal into all cells.

    :arg store: The flow in Redis, under the token that the cells are fenced for.
    :arg partition: Whose journal it is.
    :arg cells: Every cell of the flow: unchanged ones move too.
    :arg timed: Short names of the steps that have a retention.
    :arg offset: What is added to a deadline to get the time at which Redis drops the key, in ms.
    """

    def __init__(
        self,
        store: FencedStore,
        partition: int,
        cells: Iterable[Cell],
        *,
        timed: Collection[str] = (),
        offset: int = 0,
    ) -> None:
        self._store = store
        self._client = store.client
        self._scripts = store.scripts
        self._keys = store.keys
        self._incarnation = store.incarnation
        self._generation = store.generation
        self._partition = partition
        self._cells = tuple(cells)
        self._timed = frozenset(timed)
        self._offset = offset

    def fold(self, journal: Journal, from_epoch: int, to_epoch: int) -> int:
        """Apply the epochs after ``from_epoch`` up to ``to_epoch`` to every cell.

        :arg journal: Of the partition; holds all of those epochs.
        :arg from_epoch: What every cell must have applied before.
        :arg to_epoch: What every cell has applied then; committed everywhere.
        :returns: Number of state keys written or deleted.
        :raises FencedError: If another execution took over.
        :raises ServerUnavailableError: If Redis loses its last writes meanwhile; fold again.
        :raises StateLostError: If a cell is gone, of another life, or behind ``from_epoch``.
        """
        keys = 0
        with _Channels() as channels:
            for part in self._rounds(journal, from_epoch, to_epoch):
                self._apply(part, from_epoch, channels)
                keys += sum(map(len, part.changes.values()))
                from_epoch = part.to_epoch
        return keys

    def _rounds(self, journal: Journal, from_epoch: int, to_epoch: int) -> Iterator[_Round]:
        """Bound the memory: a round ends with the epoch that fills it."""
        part = _Round()
        for entry in journal.entries(from_epoch + 1, to_epoch, committed=True):
            if part.size >= _ROUND_BYTES and entry.epoch > part.to_epoch:
                yield part
                part = _Round()
            part.to_epoch = entry.epoch
            part.size += len(entry.delta)
            part.changes.setdefault(entry.cell, {}).update(entry.changes)
        part.to_epoch = to_epoch
        yield part

    def _apply(self, part: _Round, from_epoch: int, channels: _Channels) -> None:
        """Apply a round, batch by batch; Redis works on one while the next is made up, or read."""
        cells = [_chunks(cell, part.changes.get(cell, {})) for cell in self._cells]
        for row in zip_longest(*cells):
            for channel, batch in _batches(row):
                pipe = self._pipeline(batch, from_epoch, part.to_epoch)
                channels.send(channel, partial(self._execute, pipe, batch, from_epoch))

    def _pipeline(self, chunks: list[_Chunk], from_epoch: int, to_epoch: int) -> Any:
        pipe = self._client.pipeline(transaction=False)
        for chunk in chunks:
            cell = chunk.cell
            prefix = self._keys.state_prefix(cell.step, cell.shard)
            self._scripts.fold(
                self._keys.applied(cell.step, cell.shard),
                [prefix + key for key in chunk.keys],
                self._incarnation,
                self._generation,
                self._partition,
                from_epoch,
                to_epoch,
                chunk=chunk.number,
                last=chunk.last,
                offset=self._offset if cell.step in self._timed else None,
                values=chunk.values,
                on=pipe,
            )
        return pipe

    def _execute(self, pipe: Any, chunks: list[_Chunk], from_epoch: int) -> None:
        with pipe:
            verdicts: list[list[bytes]] = pipe.execute()
        for chunk, verdict in zip(chunks, verdicts, strict=True):
            self._require_folded(chunk.cell, verdict, from_epoch)

    def _require_folded(self, cell: Cell, verdict: list[bytes], from_epoch: int) -> None:
        match verdict[0]:
            case b"ok" | b"skip":
                return
            case b"fenced":
                raise self._store.overtaken(by=verdict[1])
            case b"torn":
                # Put off: what was lost is sent again, and the fold begins again.
                raise ServerUnavailableError(
                    f"shard {cell.shard} of step {cell.step!r} is in the midst of another fold, "
                    f"up to epoch {verdict[1].decode()}: Redis has lost its last writes"
                )
            case b"gap":
                raise CellBehindError(
                    f"shard {cell.shard} of step {cell.step!r} has applied epoch "
                    f"{verdict[1].decode()}, not {from_epoch}",
                    way_out(self._keys),
                )
            case b"foreign":
                found = f"is of another life of the flow ({verdict[1].decode()})"
            case _:
                found = "is missing"
        raise StateLostError(
            f"shard {cell.shard} of step {cell.step!r} {found}", way_out(self._keys)
        )


def _chunks(cell: Cell, changes: dict[bytes, bytes | None]) -> Iterator[_Chunk]:
    """Cut a cell's changes into pieces that don't hold up Redis; at least one, to move the cell."""
    keys, values = list(changes), list(changes.values())
    start, end, number = 0, len(keys), 1
    while True:
        size = _CHUNK_KEYS
        while size > 1 and _bytes(values[start : start + size]) > _CHUNK_BYTES:
            size //= 2
        after = start + size
        last = after >= end
        yield _chunk(cell, keys[start:after], values[start:after], number, last=last)
        start, number = after, number + 1
        if start >= end:
            return


def _batches(row: Sequence[_Chunk | None]) -> Iterator[tuple[int, list[_Chunk]]]:
    """Give the chunks of each trip, and the channel that the trip takes.

    A cell has one channel, so its chunks arrive in their order.

    There are no two chunks of a cell in a trip: were the first refused and the last not, the cell
    would count as folded without it.
    """
    channels = [
        [chunk for chunk in row[n::_CHANNELS] if chunk is not None] for n in range(_CHANNELS)
    ]
    for trips in zip_longest(*map(_trips, channels)):
        for channel, batch in enumerate(trips):
            if batch:
                yield channel, batch


def _trips(chunks: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
    """Bound what one trip carries; a chunk may be one large value."""
    trip: list[_Chunk] = []
    size = 0
    for chunk in chunks:
        if trip and (len(trip) == _PIPELINE_CHUNKS or size + chunk.size > _ROUND_BYTES):
            yield trip
            trip, size = [], 0
        trip.append(chunk)
        size += chunk.size
    if trip:
        yield trip


class _Channels:
    """Channels to Redis: in each, one trip after the other, in a thread."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_CHANNELS, "fold")
        self._under_way: dict[int, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._threads:  # waits, whatever has failed
            for trip in self._under_way.values():
                trip.result()

    def send(self, channel: int, trip: Callable[[], None]) -> None:
        """Begin a trip when the one before it in its channel has ended well."""
        if before := self._under_way.pop(channel, None):
            before.result()
        self._under_way[channel] = self._threads.submit(trip)


def _bytes(values: Sequence[bytes | None]) -> int:
    return sum(map(len, filter(None, values)))


def _chunk(
    cell: Cell, keys: list[bytes], values: list[bytes | None], number: int, *, last: bool
) -> _Chunk:
    if None in values:
        deleted = [key for key, value in zip(keys, values, strict=True) if value is None]
        keys = [key for key, value in zip(keys, values, strict=True) if value is not None]
        keys += deleted
    return _Chunk(cell, keys, [value for value in values if value is not None], number, last)
