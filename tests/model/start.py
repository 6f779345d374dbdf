"""The start of the model: steps c to j of rule 5, in the order of ``start/takeover.py``."""

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
CELL_EARLY = "fence the cell for the number that is to come"
FOLD_AS_OLD = "fold as the old writer"
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
                then = self._then(generation=store.counter.generation + 1)
                store = store._replace(counter=then.who)
            case _ if step == AGAIN and store.manifest != self.old:
                then = self._replace(end="overtaken")
            case _ if step == FENCE_ALONE:
                for number in range(len(store.cell.lanes)):
                    store = self._shut(store, number, broken)
            case _ if step in (READ, FENCE):
                then, store = self._fence(step, store, broken)
            case _ if step == CELL_EARLY:
                coming = Writer(self.name, store.counter.generation + 1)
                store = scripts.fence_cell(store, coming)
                if not scripts.same(store.cell.writer, coming, broken, "a cell"):
                    then = self._replace(end="overtaken")
            case _ if step == CELL:
                store = scripts.fence_cell(store, self.who)
                if not scripts.same(store.cell.writer, self.who, broken, "a cell"):
                    then = self._replace(end="overtaken")
            case _ if step == CHECK:
                then = self._checked(store, broken)
            case _ if step == SETTLE:
                then, store = self._created(store, broken)
            case _ if step in (FOLD, FOLD_AS_OLD):
                assert self.old is not None
                who = self.who if step == FOLD else self.old.writer
                calls = self._folds(store, broken, who)
                then = self._lost(store, broken) if calls is None else self._then(calls=calls)
            case _ if step == WRITE:
                then = self._then(calls=(Call("write the manifest", self.who, (self.epoch,)),))
            case _ if step == DELETE:
                then = self._then(calls=self._unlinks())
            case _ if step == RESTORE:
                return self._restored(store, broken)
        return Move(step, then, store)

    def _shut(self, store: Store, number: int, broken: Broken) -> Store:
        assert self.old is not None
        return scripts.fence_partition(store, self.old.writer, number, self.who, broken)

    def _fence(self, step: str, store: Store, broken: Broken) -> tuple[Start, Store]:
        assert self.old is not None
        number = len(self.fences)
        at = store.partition(self.old.generation, number)
        is_old = at is not None and scripts.same(at.writer, self.old.writer, broken, "a partition")
        found = Fence(at.epoch, at.trimmed) if at is not None and is_old else None
        fences = (*self.fences, found)
        if step == FENCE:
            store = self._shut(store, number, broken)
        more = len(fences) < len(store.cell.lanes)
        return self._replace(fences=fences, todo=self.todo[0 if more else 1 :]), store

    def _checked(self, store: Store, broken: Broken) -> Start:
        """The cell is the writer's, so it does not matter that it is read once more here."""
        assert self.old is not None
        if None in self.fences and "absence is a loss" not in broken:
            return self._lost(store, broken)  # a manifest follows its partitions
        epochs = [self.old.resume_epoch if f is None else f.epoch for f in self.fences]
        epoch = max(epochs) if "the least progress is the resume epoch" in broken else min(epochs)
        cell = store.cell
        lost = cell.highest >= epoch or any(
            fence is not None and fence.trimmed > cell.applied(number) + 1
            for number, fence in enumerate(self.fences)
        )
        if lost and "applied is checked" not in broken:
            return self._lost(store, broken)
        return self._then(epoch=epoch)

    def _folds(self, store: Store, broken: Broken, who: Writer) -> tuple[Call, ...] | None:
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
                calls += fold_calls(who, number, journal, fence.trimmed - 1, to)
        return calls

    def _lost(self, store: Store, broken: Broken) -> Start:
        """Tell what a newer start has changed from what Redis lost."""
        stands = scripts.same(store.counter, self.who, broken, "the counter")
        return self._replace(end="lost" if stands else "overtaken")

    def _created(self, store: Store, broken: Broken) -> tuple[Start, Store]:
        for number in range(len(store.cell.lanes)):
            verdict, store = scripts.create_partition(store, broken, self.who, number, self.epoch)
            if verdict != "ok":
                return self._replace(end="overtaken"), store
        return self._then(calls=(Call("settle", self.who, (self.epoch - 1,)),)), store

    def _unlinks(self) -> tuple[Call, ...]:
        assert self.old is not None
        return tuple(
            Call("unlink", self.who, (self.old.generation, number))
            for number in range(len(self.fences))
        )

    def _restored(self, store: Store, broken: Broken) -> Move:
        cell = store.cell
        stands = (
            scripts.same(cell.writer, self.who, broken, "a cell") and cell.epoch == self.epoch - 1
        )
        if not stands and "a start looks at the cell that it restores" not in broken:
            return Move(RESTORE, self._lost(store, broken), store)
        first, last = self.epoch, self.epoch + self.epochs - 1
        spawned = tuple(
            Replicator(self.who, number, first, last) for number in range(len(cell.lanes))
        )
        return Move(RESTORE, self._then(end="runs"), store, spawned=spawned)
