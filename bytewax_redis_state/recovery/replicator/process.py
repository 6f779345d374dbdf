"""The replicator: the process that ships outbox rows to Redis, one beside each dataflow process.

It runs as ``python -m bytewax_redis_state.recovery.replicator.process`` with a
``ReplicatorConfig`` as one JSON line on its standard input. The input then stays open for as long
as the dataflow lives: its end (or another parent) means drain and go.

Invariant: it ships rows up to the commit mark only, in order and once; it deletes rows only after
the margin; and once it is fenced it writes nothing any more.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import time
from collections import deque
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from bytewax_redis_state.codec.delta import pack_delta, unpack_answer
from bytewax_redis_state.dataflow.shards.placement import shard_of_name
from bytewax_redis_state.errors import (
    FencedError,
    ReplicatorError,
    ServerError,
    ServerUnavailableError,
    StateError,
    StateLostError,
)
from bytewax_redis_state.keys import shard_of
from bytewax_redis_state.recovery.outbox.outbox import OutboxRow
from bytewax_redis_state.recovery.outbox.scratch import LEAST_FREE
from bytewax_redis_state.recovery.records.cells import Cell
from bytewax_redis_state.recovery.records.journal import Entry, JournalMovedError
from bytewax_redis_state.recovery.records.lease import Lease, LeaseHolder
from bytewax_redis_state.recovery.records.manifest import read_manifest
from bytewax_redis_state.recovery.records.token import overtaken
from bytewax_redis_state.recovery.replicator.checkpointer import Checkpointer
from bytewax_redis_state.recovery.replicator.config import ReplicatorConfig, ReplicatorConnection
from bytewax_redis_state.recovery.replicator.confirmer import Confirmer
from bytewax_redis_state.recovery.replicator.failover_guard import FailoverGuard
from bytewax_redis_state.recovery.replicator.file_watch import FileWatch
from bytewax_redis_state.recovery.replicator.heartbeat import Heartbeat
from bytewax_redis_state.recovery.replicator.member_watch import MemberWatch
from bytewax_redis_state.recovery.replicator.parent_process import ParentProcess
from bytewax_redis_state.recovery.replicator.renewal import Rebuild, renewed, was_emptied
from bytewax_redis_state.recovery.replicator.status import ReplicatorState, Status, StatusBoard
from bytewax_redis_state.server.translation import translated

__all__ = ["Replicator", "main"]

logger = logging.getLogger(__name__)

_BATCH_BYTES = 4 * 1024 * 1024
_POLL_SECONDS = 0.05  # where others are waited for
_SWITCH_SECONDS = 0.0005
_AWAY_LEAST, _AWAY_MOST = 0.05, 1.0
_PRUNE_SECONDS = 1.0
_LAST_FOLD_SECONDS = 2.0  # how long to wait for the other processes' last rows
_EMPTY_DELTA = pack_delta({})
_BEATS_AHEAD = 1000  # of the parent, which renewed the lease until now
_ENDINGS = {
    FencedError: ReplicatorState.FENCED,
    StateLostError: ReplicatorState.LOST,
}


def _explained(setup: ReplicatorConfig, error: StateError) -> StateError:
    """Tell keys that another start has deleted from keys that Redis lost."""
    if not isinstance(error, StateLostError):
        return error
    try:
        line = ReplicatorConnection(setup)
        with translated(line.address):
            manifest = read_manifest(line.client, setup.keys)
    except StateError:  # then the first error says more
        return error
    if manifest is None or manifest.incarnation != setup.incarnation:
        return error
    if manifest.generation < setup.generation or manifest.token == setup.token:
        return error
    return overtaken(setup.token, str(manifest.token).encode())


def _is_to_be_renewed(setup: ReplicatorConfig, error: StateError, parent: ParentProcess) -> bool:
    """Tell a Redis that came back empty from one that lost less: the shards can fill it again."""
    while isinstance(error, StateLostError) and not parent.is_gone:
        try:
            return was_emptied(setup)
        except ServerUnavailableError:
            parent.wait(_AWAY_MOST)
        except StateError:  # then the first error says more
            return False
    return False


class Replicator:
    """Ships one outbox.

    :arg setup: What to ship, and where to.
    :arg parent: The dataflow.
    """

    def __init__(self, setup: ReplicatorConfig, parent: ParentProcess) -> None:
        self._setup = setup
        self._parent = parent
        self._failure: StateError | None = None
        self._line = ReplicatorConnection(setup)
        self._journal = self._line.journal()
        self._outbox = setup.open_outbox()
        self._row = self._stored_row()
        status = Status(row=self._row, progress=setup.resume_epoch, call=setup.call)
        guard = FailoverGuard(setup.guarded)
        self._confirmer = Confirmer(setup, guard, lambda: self._row)
        self._pulse = Heartbeat(
            Path(setup.status), setup.open_outbox(), status, lambda: self._confirmer.row
        )
        self._rebuild = Rebuild(setup, self._line) if setup.call else None
        if self._rebuild is not None and not self._rebuild.is_done:
            self._recall()
        self._require_rows()
        self._acked: deque[tuple[float, int]] = deque()
        self._pruned_at = 0.0
        self._committed = False  # any epoch
        self._forgotten = False
        self._members = MemberWatch(setup)
        self._wakeup = FileWatch(Path(setup.outbox).parent, parent)
        self._checkpointer = Checkpointer(setup, guard)
        lease = Lease.from_json(setup.lease.encode())
        lease = replace(lease, beat=lease.beat + _BEATS_AHEAD, phase="running")
        self._lease = LeaseHolder(self._line.client, setup.keys, lease, self._fail)

    def _fail(self, error: StateError) -> None:
        self._failure = self._failure or error

    def _stored_row(self) -> int:
        """Go on where Redis says: that covers a replicator that was killed and restarted."""
        key = self._setup.keys.progress(self._setup.partition, self._setup.generation)
        with translated(self._line.address):
            row = self._line.client.hget(key, "row")
        if row is None:
            raise StateLostError(
                f"the progress of partition {self._setup.partition} is missing in Redis",
                "Redis was emptied under a running flow; start the flow again",
            )
        return int(row)

    def _require_rows(self) -> None:
        """Refuse to go on from a row after which some are no longer here.

        :raises StateLostError: If Redis has lost more than the margin.
        """
        if self._rebuild is not None and not self._rebuild.is_done:
            return  # what stood before is of no use
        if self._row < self._outbox.pruned:
            raise StateLostError(
                f"Redis has lost more than the last {self._setup.margin:g} s of partition "
                f"{self._setup.partition}: it stands at row {self._row} of the outbox, "
                f"which begins after {self._outbox.pruned}",
                "start the flow again: it resumes from what Redis has",
            )

    def _recall(self) -> None:
        """See which cells have answered before this replicator was started."""
        after = 0
        while after < self._row:
            rows = self._outbox.rows(after, sys.maxsize, _BATCH_BYTES)
            for row in rows:
                if row.id <= self._row:
                    self._entry(row)
            after = rows[-1].id if rows else self._row

    def run(self) -> ReplicatorState:
        """Ship until the dataflow has ended, then drain.

        :returns: How it ended.
        """
        try:
            # At once: a start that comes after a crash must not take this one for its member.
            with suppress(ServerError):
                self._lease.say("running")
            self._lease.start()
            self._confirmer.start()
            self._checkpointer.start()
            self._pulse.start()
            self._ship_until_orphaned()
            return self._drain()
        except StateError as caught:
            if _is_to_be_renewed(self._setup, caught, self._parent):
                self._pulse.show(text="Redis was emptied")
                return self._end(ReplicatorState.EMPTIED, "Redis was emptied")
            error = _explained(self._setup, caught)
            state = _ENDINGS.get(type(error), ReplicatorState.FAILED)
            # One line, as an operator wants it; the traceback says nothing that the error does not.
            generation = self._setup.generation
            logger.error("replicator stops generation=%d why=%s", generation, error)  # noqa: TRY400
            return self._end(state, str(error))

    def _end(self, state: ReplicatorState, text: str = "") -> ReplicatorState:
        self._checkpointer.stop()
        self._confirmer.stop()
        self._lease.stop(release=state is not ReplicatorState.EMPTIED)
        self._pulse.stop()
        self._show(state, text)
        self._wakeup.close()
        self._outbox.close()
        return state

    def _show(self, state: ReplicatorState, text: str = "") -> None:
        self._pulse.show(state=state, row=self._row, applied=self._checkpointer.applied, text=text)

    def _heed_threads(self) -> None:
        failure = self._failure or self._checkpointer.failure or self._confirmer.failure
        if failure is not None:
            raise failure
        self._pulse.thread.require_sound()

    def _ship_until_orphaned(self) -> None:
        away, version = _AWAY_LEAST, -1
        while not self._parent.is_gone:
            self._heed_threads()
            now = self._outbox.changed()
            try:
                moved = now != version and self._ship()
                if not self._committed:
                    self._members.look(self._line)
            except ServerUnavailableError as error:
                self._say_away(error)
                self._parent.wait(away)
                away = min(away * 2, _AWAY_MOST)
                continue
            away = _AWAY_LEAST
            version = now if not moved else -1
            self._look_at_rebuild()
            self._prune()
            self._say_running()
            if moved:
                self._wakeup.reset()
            else:
                self._wakeup.wait()

    def _say_away(self, error: ServerUnavailableError) -> None:
        if self._pulse.status.state is not ReplicatorState.AWAY:
            logger.warning("redis away why=%s", error)
        self._show(ReplicatorState.AWAY, str(error))

    def _say_running(self) -> None:
        if self._pulse.status.state is ReplicatorState.AWAY:
            logger.warning("redis back backlog=%d", self._outbox.backlog(self._row)[0])
        self._show(ReplicatorState.RUNNING)

    def _ship(self) -> bool:
        """Ship one batch.

        :returns: Whether there was one.
        """
        mark = self._outbox.commit_mark()
        if mark is None:
            return False
        self._committed = True
        rows = self._outbox.rows(self._row, mark, _BATCH_BYTES)
        if not rows:
            return False
        marks = [row.epoch for row in rows if row.step_id is None]
        # What stood in the outbox before the flow was founded anew belongs to its first epoch.
        progress = max(max(marks) + 1, self._setup.resume_epoch) if marks else None
        try:
            with translated(self._line.address):
                entries = [entry for row in rows if (entry := self._entry(row)) is not None]
                self._journal.append(self._row, rows[-1].id, entries, progress)
        except JournalMovedError as moved:
            logger.info("journal stands at row=%d expected=%d", moved.row, self._row)
            self._row = moved.row
            self._confirmer.forget()
            self._require_rows()
            return True
        self._row = rows[-1].id
        self._acked.append((time.monotonic(), self._row))
        shown = self._pulse.status
        self._pulse.show(
            row=self._row,
            progress=progress or shown.progress,
            shipped=shown.shipped + len(rows),
        )
        return True

    def _entry(self, row: OutboxRow) -> Entry | None:
        """Translate a row; ``None`` for marks, empty deltas and restored state."""
        if row.step_id is None or row.change in (None, _EMPTY_DELTA):
            return None
        if row.step_id not in self._setup.steps:
            raise ReplicatorError(f"the engine wrote a row for an unknown step {row.step_id!r}")
        name, kind = self._setup.steps[row.step_id]
        change = row.change or b""
        if kind != "keyed":
            return self._flat_entry(row, name, change)
        if row.epoch < self._setup.resume_epoch:
            return None
        cell = Cell(name, shard_of_name(row.state_key))
        answer = unpack_answer(change)
        if answer is not None:
            change = answer.delta
            if self._rebuild is not None:
                self._rebuild.take(cell, row.epoch, answer)
        return Entry(row.epoch, row.id, cell, change)

    def _flat_entry(self, row: OutboxRow, name: str, change: bytes) -> Entry | None:
        """Translate a row of a source or sink, whose last one counts whatever its epoch is."""
        epoch = row.epoch
        if epoch < self._setup.resume_epoch:
            if self._rebuild is None:
                return None  # restored
            epoch = self._setup.resume_epoch
        cell = Cell(name, shard_of(row.state_key, self._setup.shards))
        return Entry(epoch, row.id, cell, pack_delta({row.state_key: change}))

    def _look_at_rebuild(self) -> None:
        if self._rebuild is None or self._rebuild.is_done:
            return
        self._rebuild.look()
        if self._rebuild.is_done:
            logger.warning("state whole again generation=%d", self._setup.generation)

    def _prune(self) -> None:
        now = time.monotonic()
        if now < self._pruned_at + _PRUNE_SECONDS:
            return
        self._pruned_at = now
        if self._committed and not self._forgotten:
            self._forgotten = self._outbox.forget_restored()
        if self._rebuild is not None and not self._rebuild.is_done:
            return  # one that is started anew has to find the answers
        up_to = 0
        margin = self._setup.margin if self._has_room() else 0.0
        confirmed = self._confirmer.row
        while self._acked and self._acked[0][0] <= now - margin and self._acked[0][1] <= confirmed:
            up_to = self._acked.popleft()[1]
        if up_to:
            self._outbox.prune(up_to)

    def _has_room(self) -> bool:
        free = shutil.disk_usage(self._setup.outbox).free + self._pulse.status.spare
        if free >= 2 * LEAST_FREE:
            return True
        logger.debug("margin given up free=%d", free)
        return False

    def _drain(self) -> ReplicatorState:
        """Ship what is left, fold once more, give the lease back: bounded by the drain timeout."""
        deadline = time.monotonic() + self._setup.drain_timeout
        self._show(ReplicatorState.DRAINING)
        with suppress(ServerUnavailableError):
            self._lease.say("draining")
        while True:
            self._heed_threads()
            try:
                while self._ship():
                    self._show(ReplicatorState.DRAINING)
                self._checkpointer.stop()
                self._heed_threads()
                self._finish_rebuild(deadline)
                self._fold_last()
                self._await_confirmation(deadline)
            except ServerUnavailableError as error:
                if time.monotonic() > deadline:
                    left, _ = self._outbox.backlog(self._row)
                    return self._end(ReplicatorState.UNDRAINED, f"{left} rows not shipped: {error}")
                self._show(ReplicatorState.DRAINING, str(error))
                time.sleep(_AWAY_LEAST)
            else:
                return self._end(ReplicatorState.DRAINED)

    def _await_confirmation(self, deadline: float) -> None:
        """Let nobody believe that all is safe before it is.

        :raises ServerUnavailableError: If Redis is not as sure as it should be in time.
        """
        while self._confirmer.row < self._row:
            self._heed_threads()
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"Redis has not confirmed {self._setup.durability} of all rows"
                )
            time.sleep(_POLL_SECONDS)

    def _finish_rebuild(self, deadline: float) -> None:
        """Wait for the other processes to be whole; our own shards have no more to say."""
        patience = min(deadline, time.monotonic() + _LAST_FOLD_SECONDS)
        while self._rebuild is not None and not self._rebuild.is_done:
            self._look_at_rebuild()
            if time.monotonic() > patience:
                raise StateLostError(
                    "Redis was emptied while the flow ran, and the flow ended before its state "
                    "was whole again",
                    "delete the flow's keys to begin anew",
                )
            time.sleep(_POLL_SECONDS)

    def _fold_last(self) -> None:
        """Fold; the others, which end too, get a moment to come as far as this one.

        Else the keyed state would lack the last epochs of a run that ended well, until the next.
        """
        patience = time.monotonic() + _LAST_FOLD_SECONDS
        while not self._checkpointer.checkpoint() and time.monotonic() < patience:
            self._heed_threads()
            time.sleep(_POLL_SECONDS)


def main() -> int:
    """Run a replicator from the setup on standard input.

    :returns: 0 when everything was shipped, else 1; the status board says how it ended.
    """
    # Ctrl-C reaches the whole group: the dataflow ends first, and its end is our sign to drain.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    logging.basicConfig(
        level=os.environ.get("BYTEWAX_REDIS_LOG", "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Shipping must not wait for a fold, which seldom lets go by itself.
    sys.setswitchinterval(_SWITCH_SECONDS)
    parent = ParentProcess()
    line = sys.stdin.readline()
    if not line:
        return 1  # the start failed before there was anything to ship
    setup = ReplicatorConfig.from_json(line)
    sys.path += [place for place in setup.path if place not in sys.path]
    parent.watch()
    with closing(setup.open_outbox()) as outbox:
        if outbox.renewal is not None:
            setup = setup.renewed(outbox.renewal)
        while True:
            state = _live(setup, parent)
            if state is not ReplicatorState.EMPTIED:
                return 0 if state is ReplicatorState.DRAINED else 1
            logger.warning("redis emptied: asking the shards for all that they hold")
            try:
                new = renewed(setup, outbox, lambda: not parent.is_gone)
            except StateError as error:
                return _give_up(setup, error)
            if new is None:
                lost = "Redis was emptied, and the flow ended before it was founded anew"
                return _give_up(setup, StateLostError(lost, "start the flow again"))
            setup = new


def _live(setup: ReplicatorConfig, parent: ParentProcess) -> ReplicatorState:
    """Ship for as long as the flow's life in Redis lasts."""
    try:
        replicator = Replicator(setup, parent)
    except StateError as error:
        if _is_to_be_renewed(setup, error, parent):
            return ReplicatorState.EMPTIED
        _give_up(setup, _explained(setup, error))
        return ReplicatorState.FAILED
    return replicator.run()


def _give_up(setup: ReplicatorConfig, error: StateError) -> int:
    state = _ENDINGS.get(type(error), ReplicatorState.FAILED)
    StatusBoard(Path(setup.status)).write(Status(state=state, text=str(error)))
    return 1


if __name__ == "__main__":
    ended = main()
    logging.shutdown()
    # What it had is closed. Taking the interpreter down takes ten times as long as the whole drain,
    # and the dataflow's process waits for it.
    os._exit(ended)
