"""A shard: many keys' logics behind one key of the engine.

The engine pays calls across the language border, metrics and a recovery row per key; a shard pays
them per batch. Invariant: each logic sees the calls that it would see in a stock step, in the same
order, and each epoch's delta holds exactly the keys whose state may have changed in it. A key past
its deadline is as one that was never there; one that owes anything has no deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from threading import Lock
from typing import Any

from bytewax.errors import BytewaxRuntimeError
from bytewax.operators import (
    StatefulBatchLogic,
    StatefulLogic,
    _FoldFinalLogic,
    _JoinLogic,
    _StatefulFlatMapLogic,
    _StatefulLogic,
)
from bytewax.operators.windowing import _WindowLogic

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.codec.delta import pack_answer, pack_delta, unpack_piece
from bytewax_redis_state.codec.envelope import deadline_of, keys_with_deadline
from bytewax_redis_state.dataflow.deadlines import NEVER, Deadlines, Lifetime
from bytewax_redis_state.dataflow.returns import checked_emit, checked_time
from bytewax_redis_state.dataflow.roll import Call, Roll
from bytewax_redis_state.dataflow.route import Groups
from bytewax_redis_state.dataflow.snapshots import snapshot_of
from bytewax_redis_state.dataflow.timers import Timers
from bytewax_redis_state.dataflow.windows import PatientWindow
from bytewax_redis_state.errors import CodecError, DecodeError

__all__ = ["HeldPiece", "ShardBuilder", "ShardLogic"]

Logic = StatefulBatchLogic[Any, Any, Any]
Items = list[tuple[str, Any]]

_NOTHING: tuple[Any, ...] = ()
_SLEEPERS = (_StatefulFlatMapLogic,)
# In one activation all shards of a step may have keys to drop.
_DROPS = 100
_LONGEST_SLEEP = 24 * 3600 * 1000
_SPARSE = 4  # a dict that has shrunk to a fraction of this keeps its room
_SMALL = 64
_NO_TIMES = (_StatefulFlatMapLogic, _FoldFinalLogic, _JoinLogic)


def _keeps_time(logic: Logic) -> bool:
    """Tell whether a logic, or one that takes its place, may ever ask for a notification."""
    if isinstance(logic, _StatefulLogic):
        return type(logic.logic) not in _NO_TIMES
    return getattr(logic.notify_at, "__func__", None) is not StatefulBatchLogic.notify_at


def _may_sleep(logic: Logic) -> bool:
    """Tell whether keys of this logic's step need no logic until an item comes for them.

    So it is with Bytewax's own logics that want neither notifications nor the end of input: all
    keys of a step have the same, and building one calls nothing of the user's.
    """
    return type(logic) is _StatefulLogic and type(logic.logic) in _SLEEPERS


def _ignores_eof(logic: Logic) -> bool:
    if type(logic) is _StatefulLogic and logic.logic is not None:
        return getattr(logic.logic.on_eof, "__func__", None) is StatefulLogic.on_eof
    return getattr(logic.on_eof, "__func__", None) is StatefulBatchLogic.on_eof


class ShardLogic(StatefulBatchLogic[Groups, Items, bytes]):
    """Run the logics of one shard's keys.

    On resume each key's logic is built from its state as of the last committed epoch, and asked
    for its notification time; where it can want none, it is built when the key's first item comes.

    :arg step_id: Of the user's core step; errors name it.
    :arg builder: The user's.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg roll: Calls for everything where Redis came back empty; ``None`` for never.
    """

    def __init__(
        self,
        step_id: str,
        builder: Callable[[Any], Logic],
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        roll: Roll | None = None,
    ) -> None:
        self._step_id = step_id
        self._builder = builder
        self._codec = codec
        self._lifetime = lifetime
        self._call: Call | None = None
        self._answered = 0
        self._longest_sleep = None if roll is None else roll.interval
        self._deadlines = Deadlines()
        self._mistimed: list[str] = []
        self._restless = False
        self._peak = _SMALL
        self._logics: dict[str, Logic] = {}
        self._asleep: dict[str, bytes] = {}
        self._timers = Timers()
        self._keep_time = False
        self._awoken: set[str] = set()
        self._dirty: set[str] = set()
        if roll is not None:
            roll.add(self)

    def ask(self, call: Call) -> None:
        """Answer a call for everything with the next snapshot; from any thread."""
        self._call = call

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Take in restored keys, and build their logics if need be; they count as unchanged.

        Only where the step has come to a lifetime, or lost it, the next delta holds them all.

        :arg states: State key to encoded state.
        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder fails.
        """
        self._take_deadlines(states)
        for key, state in self._codec.decode_all(states):
            try:
                logic = self._build(key, state)
            except Exception as error:
                raise self._failure("builder", key) from error
            if _may_sleep(logic):
                self._asleep.update(states)
                del self._asleep[key]
                return
        if self._keep_time:
            self._awoken.update(states)

    def _take_deadlines(self, states: Mapping[str, bytes]) -> None:
        if self._lifetime is None:
            self._mistimed += keys_with_deadline(states)
            return
        for key, data in states.items():
            deadline = deadline_of(data)
            if deadline is None:
                self._mistimed.append(key)
            else:
                self._deadlines.set(key, deadline)

    def on_batch(self, values: list[Groups]) -> tuple[Iterable[Items], bool]:
        """Run each key's logic once, on all its values.

        :arg values: What each batch from upstream holds for this shard.
        :returns: One list of items, or nothing; a shard is never discarded.
        :raises BytewaxRuntimeError: If a logic fails; names the user's step and the key.
        """
        groups = values[0] if len(values) == 1 else _merged(values)
        if self._lifetime is not None and self._deadlines.soonest <= (now := self._lifetime.now()):
            for key in groups:
                if self._deadlines.has_passed(key, now) and key not in self._dirty:
                    self._expire(key)
        logics = self._logics
        items: Items = []
        key, doing = "", "StatefulBatchLogic.on_batch"
        try:
            for key, batch in groups.items():
                logic = logics.get(key)
                if logic is None:
                    doing = "builder"
                    logic = self._wake(key)
                    doing = "StatefulBatchLogic.on_batch"
                result = logic.on_batch(batch)
                if (
                    type(result) is tuple
                    and len(result) == 2
                    and result[1] is False
                    and (type(result[0]) is tuple or type(result[0]) is list)
                ):
                    emit, is_complete = result
                else:
                    emit, is_complete = checked_emit(result)
                for value in emit:
                    items.append((key, value))
                if is_complete:
                    self._discard(key)
        except DecodeError:
            raise
        except Exception as error:
            raise self._failure(doing, key) from error
        self._dirty.update(groups)
        if self._keep_time:
            self._awoken.update(groups)
        return ((items,) if items else _NOTHING), False

    def on_notify(self) -> tuple[Iterable[Items], bool]:
        """Run the logics whose notification is due, and drop keys whose deadline has come.

        :returns: One list of items, or nothing.
        :raises BytewaxRuntimeError: If a logic fails; names the user's step and the key.
        """
        self._restless = False
        self._drop_passed(_DROPS)
        due = self._timers.pop_due(datetime.now(timezone.utc))
        items: Items = []
        for key in due:
            self._act("on_notify", key, items)
        self._awoken.update(due)
        return ((items,) if items else _NOTHING), False

    def on_eof(self) -> tuple[Iterable[Items], bool]:
        """Tell the logics that wait for it that upstream has ended.

        :returns: One list of items, or nothing.
        :raises BytewaxRuntimeError: If a logic fails; names the user's step and the key.
        """
        self._drop_passed(NEVER)
        items: Items = []
        for key, logic in sorted(self._logics.items()):
            if not _ignores_eof(logic):
                self._act("on_eof", key, items)
        if self._keep_time:
            self._awoken.update(self._logics)
        return ((items,) if items else _NOTHING), False

    def notify_at(self) -> datetime | None:
        """Ask the awoken keys' logics for their times.

        :returns: The soonest time of all keys, be it of a notification or to drop one, or to look
            for a call.
        :raises BytewaxRuntimeError: If a logic fails; names the user's step and the key.
        """
        key = ""
        try:
            for key in self._awoken:
                logic = self._logics.get(key)
                at = logic.notify_at() if logic is not None else None
                # As in the engine, None leaves an earlier time as it is.
                if at is not None:
                    self._timers.set(key, checked_time(at))
        except Exception as error:
            raise self._failure("StatefulBatchLogic.notify_at", key) from error
        self._awoken.clear()
        if self._mistimed:
            self._retime()
        soonest = self._timers.next()
        if self._restless:
            return datetime.now(timezone.utc)
        left = self._until_drop()
        if left is None and self._longest_sleep is None:
            return soonest
        now = datetime.now(timezone.utc)
        times = [] if soonest is None else [soonest]
        if left is not None:
            wait = min(left, _LONGEST_SLEEP) + 1 if left > 0 else 0
            times.append(now + timedelta(milliseconds=wait))
        if self._longest_sleep is not None:
            times.append(now + self._longest_sleep)
        return min(times)

    def _until_drop(self) -> int | None:
        """Tell in how many milliseconds keys may have to be dropped, ``None`` for never."""
        if self._lifetime is None:
            return None
        soonest = self._deadlines.soonest
        if self._dirty:
            # They get theirs when the epoch closes, and nobody asks again after that.
            soonest = min(soonest, self._lifetime.now() + self._lifetime.kept)
        return None if soonest == NEVER else soonest - self._lifetime.now()

    def _retime(self) -> None:
        """Have restored keys written anew that lack a deadline, or have one and should not.

        The engine asks for the snapshot of a shard that was awoken only, so this one has to be.
        """
        logics, timed = self._logics, self._lifetime is not None
        for key in self._mistimed:
            if not (timed and key in logics and self._owes(key, logics[key])):
                self._dirty.add(key)
        self._mistimed = []
        self._restless = bool(self._dirty)

    def snapshot(self) -> bytes:
        """Encode what changed since the last call.

        :returns: The delta; it may be empty.
        :raises EncodeError: If a state can't be encoded.
        :raises BytewaxRuntimeError: If a logic's ``snapshot`` fails; names step and key.
        """
        changes: dict[str, bytes | None] = {}
        encode, logics, lifetime = self._codec.encode, self._logics, self._lifetime
        until = lifetime.deadline() if lifetime is not None and self._dirty else None
        may_owe, deadline_of_key = self._keep_time, self._deadlines.of
        key = ""
        try:
            for key in self._dirty:
                logic = logics.get(key)
                if logic is None:
                    changes[key] = self._asleep_or_gone(key, until)
                elif until is None:
                    changes[key] = encode(key, snapshot_of(logic))
                elif may_owe and self._owes(key, logic):
                    self._deadlines.drop(key)
                    changes[key] = encode(key, snapshot_of(logic))
                else:
                    # For most keys it is the same for many epochs.
                    if deadline_of_key(key) != until:
                        self._deadlines.set(key, until)
                    changes[key] = encode(key, snapshot_of(logic), until)
        except CodecError:
            raise
        except Exception as error:
            raise self._failure("StatefulBatchLogic.snapshot", key) from error
        call = self._call
        if call is None or call.number <= self._answered:
            self._dirty.clear()
            self._shrink()
            return pack_delta(changes)
        self._answered = call.number
        delta = pack_delta(changes | self._unchanged())
        self._dirty.clear()
        self._shrink()
        return pack_answer(call.number, delta, counted=call.counted)

    def _unchanged(self) -> dict[str, bytes | None]:
        """Encode the keys that did not change; their deadlines stay."""
        states: dict[str, bytes | None] = {
            key: data for key, data in self._asleep.items() if key not in self._dirty
        }
        key = ""
        try:
            for key, logic in self._logics.items():
                if key not in self._dirty:
                    until = self._deadlines.of(key)
                    states[key] = self._codec.encode(key, snapshot_of(logic), until)
        except CodecError:
            raise
        except Exception as error:
            raise self._failure("StatefulBatchLogic.snapshot", key) from error
        return states

    def _owes(self, key: str, logic: Logic) -> bool:
        """Tell whether something is still to come of a key by itself."""
        return logic.owes if type(logic) is PatientWindow else key in self._timers

    def _asleep_or_gone(self, key: str, until: int | None) -> bytes | None:
        data = self._asleep.get(key)
        if data is None:
            return None
        if until is not None:
            self._deadlines.set(key, until)
        self._asleep[key] = data = self._codec.reseal_until(key, data, until)
        return data

    def _shrink(self) -> None:
        """Give room back after many keys have gone: a dict does so only when it is copied."""
        keys = len(self._logics) + len(self._asleep)
        if keys * _SPARSE < self._peak:
            self._logics, self._asleep = dict(self._logics), dict(self._asleep)
            self._deadlines.shrink()
            self._peak = max(keys, _SMALL)
        elif keys > self._peak:
            self._peak = keys

    def _wake(self, key: str) -> Logic:
        data = self._asleep.pop(key, None)
        return self._build(key, None if data is None else self._codec.decode(key, data))

    def _build(self, key: str, state: Any) -> Logic:
        logic = self._builder(state)
        if not isinstance(logic, StatefulBatchLogic):
            raise TypeError("logic must subclass `bytewax.operators.StatefulBatchLogic`")
        if type(logic) is _WindowLogic:
            logic = PatientWindow(logic)
        if not self._keep_time and _keeps_time(logic):
            self._keep_time = True
        self._logics[key] = logic
        return logic

    def _act(self, method: str, key: str, items: Items) -> None:
        logic = self._logics[key]
        try:
            emit, is_complete = checked_emit(getattr(logic, method)())
        except Exception as error:
            raise self._failure(f"StatefulBatchLogic.{method}", key) from error
        items.extend((key, value) for value in emit)
        if is_complete:
            self._discard(key)
        if is_complete or type(logic) is not PatientWindow or logic.changed:
            self._dirty.add(key)

    def _discard(self, key: str) -> None:
        del self._logics[key]
        self._timers.drop(key)
        self._deadlines.drop(key)

    def _drop_passed(self, most: int) -> None:
        if self._lifetime is None:
            return
        for key in self._deadlines.take(self._lifetime.now(), most):
            # What was touched in this epoch gets another deadline when the epoch closes.
            if key not in self._dirty:
                self._expire(key)

    def _expire(self, key: str) -> None:
        """Drop a key as if it had never been there; the delta says that it is gone."""
        self._logics.pop(key, None)
        self._asleep.pop(key, None)
        self._timers.drop(key)
        self._deadlines.drop(key)
        self._dirty.add(key)

    def _failure(self, doing: str, key: str) -> BytewaxRuntimeError:
        return BytewaxRuntimeError(
            f'error calling `{doing}` in step "{self._step_id}" for key "{key}"'
        )


def _merged(values: list[Groups]) -> Groups:
    groups: Groups = {}
    for part in values:
        for key, batch in part.items():
            if key in groups:
                groups[key] += batch
            else:
                groups[key] = batch
    return groups


class HeldPiece(StatefulBatchLogic[Any, Any, bytes]):
    """Stand for a piece of a restored shard that waits for the last one; ends with the input."""

    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        """Never called: nothing is routed to a piece."""
        return _NOTHING, StatefulBatchLogic.DISCARD

    def on_eof(self) -> tuple[Iterable[Any], bool]:
        """End."""
        return _NOTHING, StatefulBatchLogic.DISCARD

    def snapshot(self) -> bytes:
        """Give an empty delta; the recovery side ignores it."""
        return pack_delta({})


class ShardBuilder:
    """Build the shards of one step, from nothing or from restored pieces.

    On resume the pieces of a shard are held until the last one comes, also where several workers
    of this process load at once.

    :arg step_id: Of the user's core step.
    :arg builder: The user's.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg roll: Where the shards are entered; ``None`` for nowhere.
    """

    def __init__(
        self,
        step_id: str,
        builder: Callable[[Any], Logic],
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        roll: Roll | None = None,
    ) -> None:
        self._step_id = step_id
        self._builder = builder
        self._codec = codec
        self._lifetime = lifetime
        self._roll = roll
        self._held: dict[int, list[dict[str, bytes]]] = {}
        self._lock = Lock()

    def __call__(self, resume_state: bytes | None) -> ShardLogic | HeldPiece:
        """Build a shard, or hold a piece of one.

        :arg resume_state: A packed piece; ``None`` for a shard without restored state.
        :returns: A logic for the engine.
        :raises DecodeError: If the piece or a state in it can't be decoded.
        """
        pieces: list[dict[str, bytes]] = []
        if resume_state is not None:
            piece = unpack_piece(resume_state)
            with self._lock:
                if piece.more:
                    self._held.setdefault(piece.shard, []).append(piece.states)
                    return HeldPiece()
                pieces = [*self._held.pop(piece.shard, []), piece.states]
        shard = ShardLogic(self._step_id, self._builder, self._codec, self._lifetime, self._roll)
        for states in pieces:
            shard.restore(states)
        return shard
