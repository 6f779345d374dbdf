"""The replicator of the model: it appends and, beside that, folds and trims.

A process gives the moves that it may make next, one command each. A command is a function of the
store alone, so it can also arrive late, from the buffer of a connection that is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import store as scripts
from .store import Broken, Chunk, Delta, Store, Writer

Verdict = tuple[str, Store]

SCRIPTS: dict[str, Callable[..., Verdict]] = {
    "append": scripts.append,
    "fold": scripts.fold,
    "trim": scripts.trim,
    "settle": scripts.settle_cell,
    "write the manifest": scripts.write_manifest,
    "unlink": scripts.unlink,
}


class Call(NamedTuple):
    """A command with its arguments."""

    script: str
    who: Writer
    args: tuple[object, ...]

    def run(self, store: Store, broken: Broken) -> Verdict:
        return SCRIPTS[self.script](store, broken, self.who, *self.args)


class Move(NamedTuple):
    """What a process may do next.

    ``lost`` is what becomes of the process if the connection dies instead of giving a verdict.
    """

    label: str
    process: object
    store: Store
    verdict: str = "ok"
    call: Call | None = None
    lost: object = None
    spawned: tuple[Replicator, ...] = ()


class Replicator(NamedTuple):
    """Ships the epochs from ``first`` to ``last`` of one partition."""

    who: Writer
    number: int
    first: int
    last: int
    row: int = 0
    target: int = 0
    checkpoint: tuple[Call, ...] = ()
    end: str = ""

    def moves(self, store: Store, broken: Broken) -> Iterator[Move]:
        if self.end:
            return
        if self.first + self.row // 2 <= self.last:
            yield self._append(store, broken)
        if self.checkpoint:
            yield self._go_on(store, broken)
        elif self.target:
            yield Move("read the journal", self._read(store, broken), store)
        elif to := self._least(store, broken):
            yield Move("read progress of all partitions", self._replace(target=to), store)

    def _append(self, store: Store, broken: Broken) -> Move:
        epoch = self.first + self.row // 2
        call = Call("append", self.who, (self.number, self.row, epoch))
        verdict, after = call.run(store, broken)
        then = self._replace(end=verdict)
        if verdict == "ok":
            then = self._replace(row=self.row + 1)
        elif verdict == "moved":
            found = after.partition(self.who.generation, self.number)
            then = self._replace(row=found.row if found else 0)
        return Move(f"append row {self.row} of epoch {epoch}", then, after, verdict, call, self)

    def _go_on(self, store: Store, broken: Broken) -> Move:
        call, *rest = self.checkpoint
        verdict, after = call.run(store, broken)
        then = self._replace(end=verdict)
        if verdict in ("ok", "skip", "torn"):  # a torn one is put off
            then = self._replace(checkpoint=tuple(rest) if verdict != "torn" else ())
        return Move(call.script, then, after, verdict, call, self._replace(checkpoint=()))

    def _least(self, store: Store, broken: Broken) -> int:
        """Give the epoch to fold to, the least progress of all partitions; 0 for none."""
        own = store.partition(self.who.generation, self.number)
        parts = [p for at, _, p in store.partitions if at == self.who.generation]
        if own is None or len(parts) < len(store.cell.lanes):
            return 0
        alone = "a fold waits for all partitions" in broken
        to = (own.epoch if alone else min(part.epoch for part in parts)) - 1
        return to if to >= own.trimmed else 0

    def _read(self, store: Store, broken: Broken) -> Replicator:
        own, to = store.partition(self.who.generation, self.number), self.target
        if own is None:
            return self._replace(end="missing")
        if own.epoch <= to and "a fold looks at progress with the journal" not in broken:
            return self._replace(target=0)
        calls = fold_calls(self.who, self.number, own.journal, own.trimmed - 1, to)
        trim = Call("trim", self.who, (self.number, to + 1))
        calls = (trim, *calls) if "a trim follows the fold" in broken else (*calls, trim)
        return self._replace(target=0, checkpoint=calls)


def fold_calls(
    who: Writer, number: int, journal: tuple[tuple[Delta, int], ...], after: int, to: int
) -> tuple[Call, ...]:
    """Coalesce a range of epochs and cut it into two chunks."""
    last = {half: delta for delta, half in journal if after < delta[1] <= to}
    return tuple(
        Call("fold", who, (Chunk(number, after, to, half, last.get(half)),)) for half in (0, 1)
    )
