"""A shard: many state keys behind one key of the engine; the part that all kinds of shards share.

The engine pays calls across the language border, metrics and a recovery row per key; a shard pays
them per batch. This module has deltas, deadlines, requests for full snapshots and restored keys. A
kind of shard has its own loop over a batch: :mod:`.logic_shard` runs any operator,
:mod:`bytewax_redis_state.dataflow.fast_paths` has a kind for each operator whose logic it knows.

Invariant: each epoch's delta holds exactly the keys whose state may have changed in it. A key past
its deadline counts as a key that was never there. A key with a pending notification has no
deadline.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from datetime import datetime, timedelta, timezone
from typing import Any

from bytewax.errors import BytewaxRuntimeError
from bytewax.operators import StatefulBatchLogic

from bytewax_redis_state.codec import StateCodec
from bytewax_redis_state.codec.delta import mark_pickled, pack_delta, pack_full_delta
from bytewax_redis_state.codec.envelope import deadline_of, keys_with_deadline
from bytewax_redis_state.dataflow.shards.deadlines import NEVER, Deadlines, Lifetime
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequest, SnapshotRequests
from bytewax_redis_state.errors import CodecError, EncodeError

__all__ = ["NOTHING", "Items", "Shard"]

Items = list[tuple[str, Any]]

NOTHING: tuple[Any, ...] = ()
# All shards of a step may have keys to drop in one activation, which must stay short.
_DROPS = 100
_LONGEST_SLEEP = 24 * 3600 * 1000
_SPARSE = 4  # a dict is copied when it has shrunk to this fraction: it keeps its memory otherwise
_SMALL = 64
_GONE = object()
_EMPTY = pack_delta({})
_LARGE_BYTES = 256 * 1024 * 1024
_MOST_BYTES = 950_000_000  # below SQLite's limit of a row, 1 GB
_ANSWER_BYTES = 64 * 1024 * 1024
_ANSWER_KEYS = 1000
_ANSWER_PAUSE = timedelta(seconds=0.5)


class Shard(StatefulBatchLogic[Any, Items, bytes]):
    """Keep the keys of one shard of one step.

    A kind of shard keeps an object per key in ``_held`` (a logic, or a state). It overrides
    :meth:`on_batch`, :meth:`load` and :meth:`state_of`, and those of the methods after them that it
    needs. Its ``on_batch`` calls :meth:`expire_passed` first, and adds the keys to ``_dirty`` at
    the end. A restored key is in ``_held``, or still encoded in ``_asleep`` until it is needed.

    :arg step_id: Of the user's core step; errors name it.
    :arg codec: Of the step.
    :arg lifetime: How long an idle key is kept; ``None`` for ever.
    :arg requests: Ask for full snapshots where Redis came back empty; ``None`` for never.
    """

    def __init__(
        self,
        step_id: str,
        codec: StateCodec,
        lifetime: Lifetime | None = None,
        requests: SnapshotRequests | None = None,
    ) -> None:
        self._step_id = step_id
        self._codec = codec
        self._lifetime = lifetime
        self._request: SnapshotRequest | None = None
        self._answered = 0
        self._unsent: list[str] | None = None
        self._unsent_for = 0
        self._longest_sleep = None if requests is None else requests.interval
        self._deadlines = Deadlines()
        self._mistimed: list[str] = []
        self._wake_now = False
        self._has_time_set = False
        self._peak = _SMALL
        self._held: dict[str, Any] = {}
        self._asleep: dict[str, bytes] = {}
        self._dirty: set[str] = set()
        if requests is not None:
            requests.add(self)

    # -- for kinds of shards to override --------------------------------------------------------

    @abstractmethod
    def load(self, states: Mapping[str, bytes]) -> None:
        """Put restored keys into ``_held`` or ``_asleep``; their deadlines are set already.

        :arg states: State key to encoded state.
        """

    @abstractmethod
    def state_of(self, held: Any) -> Any:
        """Give a key's state, to be encoded at once.

        :arg held: The key's object in ``_held``.
        :returns: The state as Bytewax's own logic would give it, but perhaps not a copy.
        """

    def owes(self, key: str) -> bool:
        """Tell whether a held key will act without another item, so that it has no deadline."""
        return False

    def forget(self, key: str) -> None:
        """Drop a key's object, if there is one, and its notification."""
        self._held.pop(key, None)

    def notified(self, now: datetime) -> Items:
        """Run the notifications that are due.

        :arg now: Times up to and at this one are due.
        :returns: The output.
        """
        return []

    def ended(self) -> Items:
        """Do what is left to do at the end of input.

        :returns: The output.
        """
        return []

    def next_time(self) -> datetime | None:
        """Tell the soonest time at which a notification is due."""
        return None

    # -- called by the engine -------------------------------------------------------------------

    def on_notify(self) -> tuple[Iterable[Items], bool]:
        """Run the notifications that are due, and drop keys whose deadline has come.

        :returns: One list of items, or nothing.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        self._wake_now = self._has_time_set = False
        self._drop_passed(_DROPS)
        items = self.notified(datetime.now(timezone.utc))
        return ((items,) if items else NOTHING), False

    def on_eof(self) -> tuple[Iterable[Items], bool]:
        """Run the end of input for all keys, and drop keys whose deadline has come.

        :returns: One list of items, or nothing.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        self._drop_passed(NEVER)
        items = self.ended()
        return ((items,) if items else NOTHING), False

    def notify_at(self) -> datetime | None:
        """Tell when the shard has something to do.

        :returns: The soonest time at which a notification is due, a key has to be dropped, or the
            shard looks for a request; ``None`` leaves the time that the engine has.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        soonest = self.next_time()
        if self._mistimed:
            self._retime()
        if self._wake_now:
            return datetime.now(timezone.utc)
        left = self._until_drop()
        if left is None and self._longest_sleep is None:
            return soonest
        if left is None and soonest is None and self._has_time_set:
            return None  # the engine keeps the time of our last answer
        self._has_time_set = True
        now = datetime.now(timezone.utc)
        times = [] if soonest is None else [soonest]
        if left is not None:
            wait = min(left, _LONGEST_SLEEP) + 1 if left > 0 else 0
            times.append(now + timedelta(milliseconds=wait))
        if self._longest_sleep is not None:
            times.append(now + (_ANSWER_PAUSE if self._unsent else self._longest_sleep))
        return min(times)

    def snapshot(self) -> bytes:
        """Encode what changed since the last call.

        :returns: The delta; it may be empty.
        :raises EncodeError: If a state can't be encoded.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        changes = self._changes()
        request = self._request
        if request is None or request.number <= self._answered:
            data = self._packed(changes)
        else:
            data = self._answer(request, changes)
        if self._codec.has_pickled and data != _EMPTY:
            data = mark_pickled(data)
        self._dirty.clear()
        self._shrink()
        return data

    def _packed(self, changes: Mapping[str, bytes | None]) -> bytes:
        """Pack the changes of an epoch; the engine writes them as one row."""
        data = pack_delta(changes)
        if len(data) > _LARGE_BYTES:
            for key, value in changes.items():
                self._codec.require_fit(key, value or b"")
        if len(data) > _MOST_BYTES:
            raise self._codec.told(
                EncodeError(
                    f"step {self._step_id!r} changed {len(data):,} bytes of one shard in an epoch, "
                    f"and a row of the engine's recovery file takes {_MOST_BYTES:,} at most",
                    "close epochs more often (-s), or begin the flow anew with more --shards",
                )
            )
        return data

    def _answer(self, request: SnapshotRequest, changes: dict[str, bytes | None]) -> bytes:
        """Answer a request: a large shard in several epochs, of which the last one counts.

        What is sent early and changes later is in the delta of a later epoch.
        """
        if self._unsent is None or self._unsent_for != request.number:
            self._unsent_for = request.number
            self._unsent = sorted(self._held.keys() | self._asleep.keys())
        size = 0
        while self._unsent and size < _ANSWER_BYTES:
            batch = {self._unsent.pop() for _ in range(min(len(self._unsent), _ANSWER_KEYS))}
            states = self._unchanged(batch)
            size += sum(len(value or b"") for value in states.values())
            changes.update(states)
        if self._unsent:
            return self._packed(changes)
        self._answered, self._unsent = request.number, None
        return pack_full_delta(request.number, self._packed(changes), awaited=request.awaited)

    # -- called by the rest of the package ------------------------------------------------------

    def request(self, request: SnapshotRequest) -> None:
        """Answer a request for a full snapshot with the next one; called from any thread."""
        self._request = request

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Take restored keys; they count as unchanged.

        Only where the retention of the step came or went since they were written, the next delta
        holds them all. That needs no pass over Redis that a crash could leave half done.

        :arg states: State key to encoded state.
        :raises DecodeError: If a state can't be decoded.
        :raises BytewaxRuntimeError: If the user's builder fails.
        """
        self._take_deadlines(states)
        self.load(states)

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

    # -- deadlines ----------------------------------------------------------------------------

    def expire_passed(self, keys: Iterable[str]) -> None:
        """Drop those keys whose deadline has come: their next value counts as their first.

        :arg keys: The keys of a batch.
        """
        if self._lifetime is None or self._deadlines.soonest > (now := self._lifetime.now()):
            return
        for key in keys:
            if self._deadlines.has_passed(key, now) and key not in self._dirty:
                self._expire(key)

    def discard(self, key: str) -> None:
        """Drop a key that has completed; the caller adds it to ``_dirty``."""
        self.forget(key)
        self._deadlines.drop(key)

    def _drop_passed(self, most: int) -> None:
        if self._lifetime is None:
            return
        for key in self._deadlines.take(self._lifetime.now(), most):
            # A key touched in this epoch gets another deadline when the epoch closes.
            if key not in self._dirty:
                self._expire(key)

    def _expire(self, key: str) -> None:
        """Drop a key as if it had never been there; the delta holds its deletion."""
        self._asleep.pop(key, None)
        self.discard(key)
        self._dirty.add(key)

    def _until_drop(self) -> int | None:
        """Tell in how many milliseconds keys may have to be dropped, ``None`` for never."""
        if self._lifetime is None:
            return None
        soonest = self._deadlines.soonest
        if self._dirty:
            # These keys get their deadline when the epoch closes, which is after the engine has
            # asked for our next time, and it does not ask again. So ask for a retention ahead.
            soonest = min(soonest, self._lifetime.now() + self._lifetime.kept)
        return None if soonest == NEVER else soonest - self._lifetime.now()

    def _retime(self) -> None:
        """Have restored keys written again that lack a deadline, or have one and should not.

        The engine asks only an awoken shard for its snapshot, so this shard has itself woken.
        """
        timed = self._lifetime is not None
        self._dirty.update(
            key for key in self._mistimed if not (timed and key in self._held and self.owes(key))
        )
        self._mistimed = []
        self._wake_now = bool(self._dirty)

    # -- deltas -------------------------------------------------------------------------------

    def _changes(self) -> dict[str, bytes | None]:
        """Encode the keys touched in this epoch.

        They get their deadline now, and all the same one: nothing is paid per item, and a key that
        is not committed yet is never dropped.
        """
        lifetime, dirty, held = self._lifetime, self._dirty, self._held.keys()
        until = lifetime.deadline() if lifetime is not None and dirty else None
        changes: dict[str, bytes | None] = {}
        touched: Set[str] = dirty
        if not dirty <= held:
            touched = dirty & held
            changes = {key: self._asleep_or_deleted(key, until) for key in dirty - held}
        if until is not None:
            timeless = {key for key in touched if self.owes(key)}
            for key in timeless:
                self._deadlines.drop(key)
            touched = touched - timeless if timeless else touched
            for key in touched:
                self._deadlines.set(key, until)
            changes.update(self.encoded(timeless, None))
        changes.update(self.encoded(touched, until))
        return changes

    def encoded(self, keys: Collection[str], until: int | None) -> dict[str, bytes]:
        """Encode the states of held keys.

        :arg keys: All are in ``_held``.
        :arg until: Their deadline.
        :returns: Key to encoded state.
        :raises EncodeError: If a state can't be encoded.
        :raises BytewaxRuntimeError: If the user's code fails; names the user's step and the key.
        """
        held, state_of, key = self._held, self.state_of, ""

        def states() -> Iterator[tuple[str, Any]]:
            nonlocal key
            for key in keys:
                yield key, state_of(held[key])

        try:
            return self._codec.encode_all(states(), until)
        except CodecError:
            raise
        except Exception as error:
            raise self.failure("StatefulBatchLogic.snapshot", key) from error

    def _asleep_or_deleted(self, key: str, until: int | None) -> bytes | None:
        data = self._asleep.get(key)
        if data is None:
            return None
        if until is not None:
            self._deadlines.set(key, until)
        self._asleep[key] = data = self._codec.reseal_until(key, data, until)
        return data

    def _unchanged(self, keys: Set[str]) -> dict[str, bytes | None]:
        """Encode those keys that did not change; their deadlines stay."""
        states: dict[str, bytes | None] = {
            key: self._asleep[key] for key in (keys & self._asleep.keys()) - self._dirty
        }
        deadline_of_key = self._deadlines.of
        by_deadline: dict[int | None, list[str]] = {}
        for key in (keys & self._held.keys()) - self._dirty:
            by_deadline.setdefault(deadline_of_key(key), []).append(key)
        for until, alike in by_deadline.items():
            states.update(self.encoded(alike, until))
        return states

    def _shrink(self) -> None:
        """Free memory after many keys were deleted: a dict shrinks only when it is copied."""
        keys = len(self._held) + len(self._asleep)
        if keys * _SPARSE < self._peak:
            self._held, self._asleep = dict(self._held), dict(self._asleep)
            self._deadlines.shrink()
            self._peak = max(keys, _SMALL)
        elif keys > self._peak:
            self._peak = keys

    def failure(self, doing: str, key: str) -> BytewaxRuntimeError:
        """Make the error for a failure in the user's code, in the engine's words."""
        return BytewaxRuntimeError(
            f'error calling `{doing}` in step "{self._step_id}" for key "{key}"'
        )
