"""Bugs and faults that a test plants in a run: a checker that can't fail proves nothing.

Only ``faulty_run.py`` imports this module, in processes that the tests of crashes and of the fault
harness start. A bug takes away one of the rules that keep state right. A fault is the event that
the rule guards against; alone, it must do no harm.

======================  =========================================================================
fault                   what it does
======================  =========================================================================
``lease-unheeded``      the replicator does not notice that another process holds its lease
``late-folds``          each fold comes once more after the next one, like commands from the
                        buffer of a dead connection
======================  =========================================================================

======================  =========================================================================
bug                     what it takes away
======================  =========================================================================
``no-fence``            an append, a trim and a fold don't ask whether somebody took the flow
                        over; with ``lease-unheeded``
``progress-too-high``   the replicator says that one epoch more is in the journal
``rows-not-dropped``    a start folds all that a journal holds, not what is before the resume epoch
``folds-not-compared``  a fold asks neither whether it was applied nor whether one is missing;
                        with ``late-folds``
``margin-ignored``      a row leaves the outbox as soon as Redis has it, and a replicator that is to
                        go back behind what has left goes on from there
``counts-unheeded``     a start does not compare the keys that it finds with those that were written
``sums-unheeded``       nobody looks at check sums of values
``errors-unnamed``      an error that ends a flow does not name what is wrong
``stderr-insisted``     what can't be written to standard error is written again, for ever
``tuples-as-lists``     a tuple comes back as a list
``one-start-id``        every start takes the same ID, so those that Redis gave the same number are
                        not told apart; with ``lease-unheeded``
======================  =========================================================================
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from bytewax_redis_state import run
from bytewax_redis_state.codec import codec, extension_types
from bytewax_redis_state.codec.envelope import OVERHEAD, Envelope
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.recovery.records import journal
from bytewax_redis_state.recovery.records.fold import JournalFold
from bytewax_redis_state.recovery.records.lease import LeaseHolder
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from bytewax_redis_state.recovery.replicator.shipper import Shipper
from bytewax_redis_state.recovery.start import restore, takeover
from bytewax_redis_state.scripts import scripts
from bytewax_redis_state.ui.console import print_error

__all__ = ["plant"]


def _cut(name: str, *cuts: tuple[str, str]) -> None:
    """Replace parts of a script; each must occur in it exactly once."""
    before = scripts.script_source

    def source(wanted: str) -> str:
        text = before(wanted)
        if wanted == name:
            for old, new in cuts:
                assert text.count(old) == 1, (name, old)
                text = text.replace(old, new)
        return text

    scripts.script_source = source


def lease_unheeded() -> None:
    LeaseHolder._renew = lambda self: None  # type: ignore[method-assign]


def no_fence() -> None:
    lease_unheeded()
    _cut("append", ("elseif have[4] then", "elseif false then"))
    _cut("trim_journal", (" or have[4] then", " then"))
    _cut("fold", ("elseif have[2] ~= ARGV[2] then", "elseif false then"))


def progress_too_high() -> None:
    append = journal.Journal.append

    def too_high(
        self: Any, row_before: int, row_after: int, entries: Any, epoch: int | None
    ) -> None:
        append(self, row_before, row_after, entries, None if epoch is None else epoch + 1)

    journal.Journal.append = too_high  # type: ignore[method-assign]


def rows_not_dropped() -> None:
    fold = JournalFold.fold
    journal.Journal._require_committed = lambda *_: None  # type: ignore[method-assign]

    def fold_all(self: Any, of: journal.Journal, from_epoch: int, to_epoch: int) -> int:
        last = max((entry.epoch for entry in of.entries(from_epoch + 1, 2**62)), default=to_epoch)
        return fold(self, of, from_epoch, max(last, to_epoch))

    class _StartFold(JournalFold):
        pass

    _StartFold.fold = fold_all  # type: ignore[method-assign]
    takeover.JournalFold = _StartFold  # type: ignore[attr-defined]


def late_folds() -> None:
    checkpoint, script = Checkpointer.checkpoint, scripts.Scripts.fold
    recording: list[tuple[Any, ...]] = []
    previous: list[tuple[Any, ...]] = []

    def recorded(self: Any, *args: Any, on: Any, **named: Any) -> None:
        recording.append((args, named))
        script(self, *args, on=on, **named)

    def checkpoint_then_late_one(self: Any) -> bool:
        recording.clear()
        done = checkpoint(self)
        if not recording:
            return done
        client = self._connection.client
        with client.pipeline(transaction=False) as pipe:
            for args, named in previous:
                script(self._connection.scripts, *args, on=pipe, **named)
            pipe.execute()
        previous[:] = recording
        return done

    scripts.Scripts.fold = recorded  # type: ignore[method-assign]
    Checkpointer.checkpoint = checkpoint_then_late_one  # type: ignore[method-assign]


def folds_not_compared() -> None:
    _cut(
        "fold",
        ("if applied >= to then", "if false then"),
        ("elseif applied < from then", "elseif false then"),
    )
    late_folds()


def margin_ignored() -> None:
    if "bytewax_redis_state.recovery.session" in sys.modules:  # not in the replicator's process
        session = sys.modules["bytewax_redis_state.recovery.session"]
        session.MARGIN_SECONDS = 0.0  # type: ignore[attr-defined]
    Shipper._require_rows = lambda self: None  # type: ignore[method-assign]


def one_start_id() -> None:
    lease_unheeded()
    takeover.start_id = lambda: "same"


def counts_unheeded() -> None:
    restore.Restorer._gone = lambda *_: {}  # type: ignore[method-assign]


def sums_unheeded() -> None:
    restore.are_sound = lambda *_: True  # type: ignore[attr-defined]
    codec.is_sound = lambda *_: True  # type: ignore[attr-defined]
    codec.open_envelope = lambda _, data: Envelope(data[1], data[OVERHEAD:])  # type: ignore[attr-defined]


def errors_unnamed() -> None:
    run.print_error = lambda error: print_error(StateError("something is wrong", "try again"))


def stderr_insisted() -> None:
    stderr = sys.stderr

    class _Insistent:
        def write(self, text: str) -> int:
            while True:
                with suppress(OSError):
                    stderr.write(text)
                    stderr.flush()
                    return len(text)
                time.sleep(0.05)

        def __getattr__(self, name: str) -> Any:
            return getattr(stderr, name)

    sys.stderr = cast(Any, _Insistent())


def tuples_as_lists() -> None:
    readers = cast(dict[int, Any], extension_types.READERS)
    readers[extension_types.TUPLE] = lambda data, unpack: unpack(data)


_BUGS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "lease-unheeded": lease_unheeded,
    "no-fence": no_fence,
    "progress-too-high": progress_too_high,
    "rows-not-dropped": rows_not_dropped,
    "late-folds": late_folds,
    "folds-not-compared": folds_not_compared,
    "margin-ignored": margin_ignored,
    "counts-unheeded": counts_unheeded,
    "sums-unheeded": sums_unheeded,
    "errors-unnamed": errors_unnamed,
    "stderr-insisted": stderr_insisted,
    "tuples-as-lists": tuples_as_lists,
    "one-start-id": one_start_id,
}


def plant(name: str) -> None:
    """Plant a bug in this process, by the name that ``CRASH_BUG`` gives."""
    _BUGS[name]()
