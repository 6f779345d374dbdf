"""The start of the model: steps c to j of rule 5, in the order of ``recovery/takeover.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import store as scripts
from .replicator import Call, Move, Replicator, fold_calls
from .store import Broken, Manifest, Store, Writer

BUMP = "c: bump the counter"
AGAIN = "c: read the manifest again"
READ = "read progress alone"
FENCE = "d: fence a partition and read its progress"
FENCE_ALONE = "fence the partitions alone"
CELL = "e: fence the cell and read it"
CHECK = "f, g: find the resume epoch and check it"
FOLD = "h: fold"
SETTLE = "h: settle the cell and create partitions"
WRITE = "i: write the manifest"
DELETE = "j: delete the old journals"
RESTORE = "restore"
ORDER = (BUMP, AGAIN, FENCE, CELL, CHECK, FOLD, SETTLE, WRITE, DELETE, RESTORE)


class Fence(NamedTuple):
    epoch: int
    trimmed: int


class Start(NamedTuple):
    """One start.

    :arg todo: What it has yet to do.
    :arg calls: Commands of the step that it is at.
    :arg epochs: How many epochs its replicators will ship.
    """

    name: str
    todo: tuple[str, ...] = ORDER
    epochs: int = 1
    old: Manifest | None = None
    generation: int = 0
    fences: tuple[Fence | None, ...] = ()
    epoch: int = 0
    calls: tuple[Call, ...] = ()
    end: str = ""

    @property
    def who(self) -> Writer:
        return Writer(self.name, self.generation)

    def moves(self, store: Store, broken: Broken) -> Iterator[Move]:
        if self.end:
            return
        if self.old is None:
            yield Move("read the manifest", self._replace(old=store.manifest), store)
        elif self.calls:
            yield self._call(store, broken)
        else:
            yield self._step(store, broken)

    def _call(self, store: Store, broken: Broken) -> Move:
        call, *rest = self.calls
        verdict, after = call.run(store, broken)
        then = self._replace(end=verdict)
        if verdict in ("ok", "skip"):
            then = self._replace(calls=tuple(rest))
        return Move(call.script, then, after, verdict, call, self._replace(end="connection"))

    def _then(self, **changes: object) -> Start:
        return self._replace(todo=self.todo[1:], **changes)

    def _step(self, store: Store, broken: Broken) -> Move:
        step, then = self.todo[0], self._then()
        match step:
            case _ if step == BUMP:
                then = self._then(generation=store.counter + 1)
                store = store._replace(counter=then.generation)
            case _ if step == AGAIN and store.manifest != self.old:
                then = self._replace(end="overtaken")
            case _ if step == FENCE_ALONE:
                assert self.old is not None
                for number in range(len(store.cell.lanes)):
                    at = self.old.generation
                    store = scripts.fence_partition(store, at, number, self.generation)
            case _ if step in (READ, FENCE):
                then, store = self._fence(step, store)
            case _ if step == CELL:
                store = scripts.fence_cell(store, self.who)
            case _ if step == CHECK:
                then = self._checked(store, broken)
            case _ if step == SETTLE:
                store = self._created(store)
                then = self._then(calls=(Call("settle", self.who, (self.epoch - 1,)),))
            case _ if step == FOLD:
                calls = self._folds(store, broken)
                then = self._lost(store) if calls is None else self._then(calls=calls)
            case _ if step == WRITE:
                then = self._then(calls=(Call("write the manifest", self.who, (self.epoch,)),))
            case _ if step == DELETE:
                then = self._then(calls=self._unlinks())
            case _ if step == RESTORE:
                return self._restored(store, broken)
        return Move(step, then, store)

    def _fence(self, step: str, store: Store) -> tuple[Start, Store]:
        assert self.old is not None
        number = len(self.fences)
        at = store.partition(self.old.generation, number)
        found = None if at is None else Fence(at.epoch, at.trimmed)
        fences = (*self.fences, found)
        if step == FENCE:
            store = scripts.fence_partition(store, self.old.generation, number, self.generation)
        more = len(fences) < len(store.cell.lanes)
        return self._replace(fences=fences, todo=self.todo[0 if more else 1 :]), store

    def _checked(self, store: Store, broken: Broken) -> Start:
        """The cell is the writer's, so it does not matter that it is read once more here."""
        assert self.old is not None
        epochs = [self.old.resume_epoch if f is None else f.epoch for f in self.fences]
        epoch = max(epochs) if "the least progress is the resume epoch" in broken else min(epochs)
        cell = store.cell
        lost = cell.highest >= epoch or any(
            fence is not None and fence.trimmed > cell.applied(number) + 1
            for number, fence in enumerate(self.fences)
        )
        if lost and "applied is checked" not in broken:
            return self._lost(store)
        return self._then(epoch=epoch)

    def _folds(self, store: Store, broken: Broken) -> tuple[Call, ...] | None:
        assert self.old is not None
        calls: tuple[Call, ...] = ()
        to = self.epoch - 1 if "what is uncommitted is dropped" not in broken else 9
        for number, fence in enumerate(self.fences):
            at = store.partition(self.old.generation, number)
            if fence is not None:
                short = at is None or at.epoch < self.epoch
                if short and "a fold looks at progress with the journal" not in broken:
                    return None
                journal = () if at is None else at.journal
                calls += fold_calls(self.who, number, journal, fence.trimmed - 1, to)
        return calls

    def _lost(self, store: Store) -> Start:
        """Tell what a newer start has changed from what Redis lost."""
        return self._replace(end="lost" if store.counter == self.generation else "overtaken")

    def _created(self, store: Store) -> Store:
        for number in range(len(store.cell.lanes)):
            if store.partition(self.generation, number) is None:
                made = scripts.Partition(self.epoch, trimmed=self.epoch)
                store = store.with_partition(self.generation, number, made)
        return store

    def _unlinks(self) -> tuple[Call, ...]:
        assert self.old is not None
        return tuple(
            Call("unlink", self.who, (self.old.generation, number))
            for number in range(len(self.fences))
        )

    def _restored(self, store: Store, broken: Broken) -> Move:
        cell = store.cell
        stands = (cell.generation, cell.epoch) == (self.generation, self.epoch - 1)
        if not stands and "a start looks at the cell that it restores" not in broken:
            return Move(RESTORE, self._lost(store), store)
        first, last = self.epoch, self.epoch + self.epochs - 1
        spawned = tuple(
            Replicator(self.who, number, first, last) for number in range(len(cell.lanes))
        )
        return Move(RESTORE, self._then(end="runs"), store, spawned=spawned)
