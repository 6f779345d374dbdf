"""Redis as the model has it: one cell, some partitions, and the scripts as pure functions.

Every script takes a store and gives a verdict and the store afterwards. ``broken`` names the rules
that a script leaves out; with none it does what its Lua file does.

A delta is known by the start whose engine made it and by its epoch. Every epoch of a partition is
two outbox rows, which change two state keys (``half`` 0 and 1), so an append and a fold both come
in two parts.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

Delta = tuple[str, int]
Broken = frozenset[str]
NOTHING: Delta = ("", 0)
Item = TypeVar("Item")


def put(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
    return (*items[:index], item, *items[index + 1 :])


class Writer(NamedTuple):
    """Who sends a command: its token is the number with the ID of the start."""

    start: str
    generation: int


def same(have: Writer, who: Writer, broken: Broken, where: str) -> bool:
    """Compare tokens as the scripts do."""
    if not broken.isdisjoint({"starts have IDs", f"{where} has a start ID"}):
        return have.generation == who.generation
    return have == who


class Manifest(NamedTuple):
    """Also who has run which epochs: ``(start, resume epoch)`` of all manifests until this one."""

    generation: int
    resume_epoch: int
    runs: tuple[Delta, ...]

    @property
    def writer(self) -> Writer:
        return Writer(self.runs[-1][0], self.generation)

    def delta(self, epoch: int) -> Delta:
        """Tell which delta of an epoch counts."""
        for start, first in reversed(self.runs):
            if first <= epoch:
                return start, epoch
        return NOTHING


class Partition(NamedTuple):
    """Journal and progress."""

    writer: Writer
    epoch: int
    row: int = 0
    trimmed: int = 1
    fenced: Writer | None = None
    journal: tuple[tuple[Delta, int], ...] = ()


class Cell(NamedTuple):
    writer: Writer
    epoch: int
    lanes: tuple[int, ...]
    marks: tuple[int, ...]
    keys: tuple[tuple[Delta, Delta], ...]

    def applied(self, partition: int) -> int:
        return max(self.epoch, self.lanes[partition])

    @property
    def highest(self) -> int:
        return max(self.epoch, *self.marks, *self.lanes)


class Store(NamedTuple):
    counter: Writer
    manifest: Manifest
    cell: Cell
    partitions: tuple[tuple[int, int, Partition], ...]

    def partition(self, generation: int, number: int) -> Partition | None:
        for at, which, partition in self.partitions:
            if (at, which) == (generation, number):
                return partition
        return None

    def with_partition(self, generation: int, number: int, new: Partition | None) -> Store:
        rest = [p for p in self.partitions if p[:2] != (generation, number)]
        if new is not None:
            rest.append((generation, number, new))
        return self._replace(partitions=tuple(sorted(rest)))


def founded(partitions: int) -> Store:
    """A flow whose first start is just over."""
    none, old = (0,) * partitions, Writer("old", 1)
    cell = Cell(old, 0, none, none, ((NOTHING, NOTHING),) * partitions)
    parts = tuple((1, number, Partition(old, 1)) for number in range(partitions))
    return Store(old, Manifest(1, 1, (("old", 1),)), cell, parts)


def append(
    store: Store, broken: Broken, who: Writer, number: int, before: int, epoch: int
) -> tuple[str, Store]:
    """Append one row; the second of an epoch moves progress."""
    at = store.partition(who.generation, number)
    if at is None and "an append makes no key" in broken:
        at = Partition(who, epoch, before)
    if at is None:
        return "missing", store
    if not same(at.writer, who, broken, "a partition"):
        return "fenced", store
    if at.fenced and "an append asks for the fence" not in broken:
        return "fenced", store
    if at.row != before and "an append compares the row" not in broken:
        return "moved", store
    half = before % 2
    last = half == (0 if "progress moves with the last append" in broken else 1)
    at = at._replace(
        row=before + 1,
        epoch=max(at.epoch, epoch + 1) if last else at.epoch,
        journal=(*at.journal, ((who.start, epoch), half)),
    )
    return "ok", store.with_partition(who.generation, number, at)


def trim(store: Store, broken: Broken, who: Writer, number: int, below: int) -> tuple[str, Store]:
    at = store.partition(who.generation, number)
    if at is None:
        return "missing", store
    if at.fenced or not same(at.writer, who, broken, "a partition"):
        return "fenced", store
    if at.trimmed >= below:
        return "ok", store
    kept = tuple(entry for entry in at.journal if entry[0][1] >= below)
    new = at._replace(trimmed=below, journal=kept)
    return "ok", store.with_partition(who.generation, number, new)


class Chunk(NamedTuple):
    """Half of a fold: the last delta of one state key."""

    partition: int
    after: int
    to: int
    half: int
    delta: Delta | None


def fold(store: Store, broken: Broken, who: Writer, chunk: Chunk) -> tuple[str, Store]:
    cell, number = store.cell, chunk.partition
    if (
        not same(cell.writer, who, broken, "a cell")
        and "a fold asks for the generation" not in broken
    ):
        return "fenced", store
    if "a fold is compared" not in broken:
        if cell.applied(number) >= chunk.to:
            return "skip", store
        if cell.applied(number) < chunk.after:
            return "gap", store
    if "a chunk heeds the mark" not in broken:
        mark = cell.marks[number]
        if mark > chunk.to or (chunk.half == 1 and mark != chunk.to):
            return "torn", store
    keys, pair = cell.keys, list(cell.keys[number])
    if chunk.delta is not None:
        pair[chunk.half] = chunk.delta
        keys = put(keys, number, (pair[0], pair[1]))
    lanes, marks = cell.lanes, put(cell.marks, number, chunk.to)
    if chunk.half == 1:
        lanes, marks = put(lanes, number, chunk.to), put(marks, number, 0)
    return "ok", store._replace(cell=cell._replace(keys=keys, lanes=lanes, marks=marks))


def fence_partition(store: Store, old: Writer, number: int, by: Writer, broken: Broken) -> Store:
    at = store.partition(old.generation, number)
    if at is None or not same(at.writer, old, broken, "a partition"):
        return store
    if at.fenced is not None and at.fenced.generation >= by.generation:
        return store
    return store.with_partition(old.generation, number, at._replace(fenced=by))


def fence_cell(store: Store, who: Writer) -> Store:
    """Of two starts that Redis gave one number the first one keeps the cell."""
    if store.cell.writer.generation >= who.generation:
        return store
    return store._replace(cell=store.cell._replace(writer=who))


def create_partition(
    store: Store, broken: Broken, who: Writer, number: int, epoch: int
) -> tuple[str, Store]:
    at = store.partition(who.generation, number)
    if at is None:
        made = Partition(who, epoch, trimmed=epoch)
        return "ok", store.with_partition(who.generation, number, made)
    return "ok" if same(at.writer, who, broken, "a partition") else "fenced", store


def settle_cell(store: Store, broken: Broken, who: Writer, epoch: int) -> tuple[str, Store]:
    """Say that all partitions are applied up to an epoch."""
    cell = store.cell
    if not same(cell.writer, who, broken, "a cell") or cell.epoch > epoch:
        return "fenced", store
    if "settling asks what is applied" not in broken and (
        min(map(cell.applied, range(len(cell.lanes)))) < epoch
    ):
        return "lost", store
    none = (0,) * len(cell.lanes)
    cell = cell._replace(epoch=epoch, lanes=none, marks=none)
    return "ok", store._replace(cell=cell)


def write_manifest(store: Store, broken: Broken, who: Writer, epoch: int) -> tuple[str, Store]:
    if (
        not same(store.counter, who, broken, "the counter")
        and "a manifest is compared" not in broken
    ):
        return "fenced", store
    runs = tuple(run for run in store.manifest.runs if run[1] < epoch)
    new = Manifest(who.generation, epoch, (*runs, (who.start, epoch)))
    return "ok", store._replace(manifest=new)


def unlink(
    store: Store, broken: Broken, who: Writer, generation: int, number: int
) -> tuple[str, Store]:
    at = store.partition(generation, number)
    if at is None or (
        at.fenced != who and "a journal goes with one's own fence on it" not in broken
    ):
        return "ok", store
    return "ok", store.with_partition(generation, number, None)
