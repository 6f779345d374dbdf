"""Locks: one holder at a time, by the server's clock, with a fencing token.

A holder that stands still for longer than the TTL loses the lock without noticing at once. What it
writes afterwards can only be told apart by whoever takes the write: give the token along, and let
them refuse one that is lower than one they have seen.

Invariant: a later holder of a lock has a higher token, also when the lock ran out in between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple, Protocol
from uuid import uuid4
from weakref import ref

from bytewax_redis_state.backend.driver import AsyncDriver, Driver
from bytewax_redis_state.backend.operation import Pause, Program, operation
from bytewax_redis_state.backend.operations import milliseconds
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import (
    ArgumentError,
    LockError,
    LockHeldError,
    LockLostError,
    StateError,
)
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.scripts import StateScripts

__all__ = [
    "LOCK_TTL",
    "AsyncLock",
    "Lock",
    "LockKeeper",
    "LockOperations",
    "RedisLockKeeper",
    "Taken",
]

LOCK_TTL = timedelta(seconds=10)
"""How long a lock outlives an owner that can't renew it, unless told otherwise."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2  # seconds
_RENEWALS = 3  # in one TTL

_log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """A lock that was taken.

    :arg token: The fencing token.
    :arg until: Until when it surely is ours, by our monotonic clock.
    """

    token: int
    until: float


class LockOperations:
    """Describe what is done with one lock for one holder.

    :arg keys: Of the backend.
    :arg name: Of the lock.
    :arg ttl: After which time it is free again.
    :arg wait: How long to wait for it; ``None`` for ever.
    """

    def __init__(self, keys: PrefixKeys, name: Key, ttl: timedelta, wait: timedelta | None) -> None:
        self.name = name
        self.ttl = milliseconds(ttl)
        self.wait = wait_seconds(wait)
        self._key = keys.lock(name)

    @operation("lock", idempotent=True)
    def take(self, owner: str) -> Program[Taken]:
        """Take it as soon as it is free."""
        end = None if self.wait is None else time.monotonic() + self.wait
        pause = _FIRST_PAUSE
        while True:
            asked = time.monotonic()
            ((taken, answer),) = yield [StateScripts.take_lock(self._key, owner, self.ttl)]
            if taken:
                return Taken(int(answer), asked + surely(self.ttl))
            yield next_pause(self.name, min(pause, int(answer) / 1000), end)
            pause = min(_LONGEST_PAUSE, pause * 2)

    @operation("renew_lock", idempotent=True)
    def renew(self, owner: str) -> Program[float | None]:
        """Let its time start anew; tells until when, None where it is lost."""
        asked = time.monotonic()
        (ours,) = yield [StateScripts.renew_lock(self._key, owner, self.ttl)]
        return asked + surely(self.ttl) if ours else None

    @operation("release_lock", idempotent=True)
    def release(self, owner: str) -> Program[bool]:
        """Give it back; tells whether it was still ours."""
        (ours,) = yield [StateScripts.release_lock(self._key, owner)]
        return bool(ours)


def surely(ttl: int) -> float:
    """Tell how many seconds a lock is surely ours after it was asked for.

    The server counts whole milliseconds, and its clock may run faster than ours.
    """
    return max(0.0, 0.99 * ttl - 2) / 1000


def wait_seconds(wait: timedelta | None) -> float | None:
    """Check how long to wait for a lock; ``None`` for ever."""
    if wait is None:
        return None
    if not isinstance(wait, timedelta) or wait < timedelta(0):
        raise ArgumentError(f"wait is {wait!r}", "give a timedelta of zero or more, or None")
    return wait.total_seconds()


def next_pause(name: Key, seconds: float, end: float | None) -> Pause:
    """Say how long to wait before the next try, with jitter.

    :arg name: Of the lock.
    :arg seconds: About how long.
    :arg end: When to give up, by the monotonic clock; ``None`` for never.
    :raises LockHeldError: If there is no time left.
    """
    seconds = max(0.001, seconds * random.uniform(0.5, 1.0))
    left = seconds if end is None else end - time.monotonic()
    if left <= 0:
        raise LockHeldError(f"the lock {name!r} is held by somebody else", "wait longer for it")
    return Pause(min(seconds, left))


class LockKeeper(Protocol):
    """Who keeps a lock: a server, or this process."""

    name: Key
    ttl: int

    def take(self, owner: str) -> Taken:
        """Take it as soon as it is free."""

    def renew(self, owner: str) -> float | None:
        """Let its time start anew; tells until when, None where it is lost."""

    def release(self, owner: str) -> bool:
        """Give it back; tells whether it was still ours."""


class RedisLockKeeper:
    """A lock that a server keeps."""

    def __init__(self, driver: Driver, operations: LockOperations) -> None:
        self.name = operations.name
        self.ttl = operations.ttl
        self._driver = driver
        self._operations = operations

    def take(self, owner: str) -> Taken:
        """Take it as soon as it is free."""
        return self._driver.run(self._operations.take(owner))

    def renew(self, owner: str) -> float | None:
        """Let its time start anew; tells until when, None where it is lost."""
        return self._driver.run(self._operations.renew(owner))

    def release(self, owner: str) -> bool:
        """Give it back; tells whether it was still ours."""
        return self._driver.run(self._operations.release(owner))


class _Holding:
    """What the holder of a lock knows about it."""

    def __init__(self, name: Key, ttl: int) -> None:
        self.name = name
        self._ttl = ttl / 1000
        self._taken: Taken | None = None
        self._owner = ""
        self._gone = False

    @property
    def token(self) -> int:
        """The fencing token; higher than that of anybody who held this lock before.

        :raises LockError: If the lock was not taken.
        """
        if self._taken is None:
            raise LockError(f"the lock {self.name!r} is not held", "use it in a with block")
        return self._taken.token

    @property
    def held(self) -> bool:
        """Whether the lock is surely ours at this moment."""
        return self._taken is not None and not self._gone and time.monotonic() < self._taken.until

    @property
    def lost(self) -> bool:
        """Whether the lock was ours, and may be somebody else's by now."""
        return self._taken is not None and not self.held

    def check(self) -> None:
        """Go on only if the lock is surely ours at this moment.

        :raises LockLostError: If it isn't.
        """
        if not self.held:
            raise self._lost_error()

    def _lost_error(self) -> LockLostError:
        return LockLostError(
            f"the lock {self.name!r} was lost before it was given back",
            "what it protects may have changed: begin anew, with a longer ttl if need be",
        )

    def _begin(self) -> str:
        if self._taken is not None:
            raise LockError(f"the lock {self.name!r} is held already", "make one per holder")
        self._owner = uuid4().hex
        self._gone = False
        return self._owner

    def _renewed(self, until: float | None) -> bool:
        if until is None:
            self._gone = True
            _log.warning("event=lock_lost lock=%r", self.name)
        elif self._taken is not None:
            self._taken = self._taken._replace(until=until)
        return until is not None

    def _not_renewed(self, error: StateError) -> bool:
        _log.warning("event=lock_not_renewed lock=%r error=%s", self.name, type(error).__name__)
        return self.held


class Lock(_Holding, AbstractContextManager["Lock"]):
    """A lock for blocking code; one holder, and again after it was given back.

    At the end of the ``with`` block, ``LockLostError`` is raised if it was somebody else's in
    between, unless the block raised by itself.
    """

    def __init__(self, keeper: LockKeeper, *, renew: bool) -> None:
        super().__init__(keeper.name, keeper.ttl)
        self._keeper = keeper
        self._renew = renew
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock as soon as it is free.

        :raises LockHeldError: If it was not free in time.
        """
        self._taken = self._keeper.take(self._begin())
        if self._renew:
            self._ended = threading.Event()
            # Weakly: a lock that was dropped without a release runs out.
            args = (ref(self), self._owner, self._ended, self._ttl / _RENEWALS)
            self._thread = threading.Thread(target=_keep, args=args, daemon=True)
            self._thread.start()

    def _keep_once(self, owner: str) -> bool:
        try:
            return self._renewed(self._keeper.renew(owner))
        except StateError as error:
            return self._not_renewed(error)

    def release(self) -> None:
        """Give the lock back.

        :raises LockLostError: If it was somebody else's in between.
        """
        owner = self._owner
        self.token  # noqa: B018 - refuses a lock that is not held
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._taken = None
        if not self._keeper.release(owner):
            raise self._lost_error()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.release()
            return
        with suppress(StateError):  # What the block raised matters more; the TTL frees the lock.
            self.release()


def _keep(lock: ref[Lock], owner: str, ended: threading.Event, pause: float) -> None:
    """Renew a lock until it ends, is lost, or is dropped."""
    while not ended.wait(pause):
        holder = lock()
        if holder is None or not holder._keep_once(owner):
            return
        del holder


class AsyncLock(_Holding, AbstractAsyncContextManager["AsyncLock"]):
    """A lock for coroutines; as :class:`Lock`."""

    def __init__(self, driver: AsyncDriver, operations: LockOperations, *, renew: bool) -> None:
        super().__init__(operations.name, operations.ttl)
        self._driver = driver
        self._operations = operations
        self._renew = renew
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def acquire(self) -> None:
        """Take the lock as soon as it is free; as :meth:`Lock.acquire`."""
        self._taken = await self._driver.run(self._operations.take(self._begin()))
        if self._renew:
            self._ended = asyncio.Event()
            # Weakly, as a lock for blocking code.
            keeping = _keep_async(ref(self), self._owner, self._ended, self._ttl / _RENEWALS)
            self._task = asyncio.create_task(keeping)

    async def _keep_once(self, owner: str) -> bool:
        try:
            return self._renewed(await self._driver.run(self._operations.renew(owner)))
        except StateError as error:
            return self._not_renewed(error)

    async def release(self) -> None:
        """Give the lock back; as :meth:`Lock.release`."""
        owner = self._owner
        self.token  # noqa: B018 - refuses a lock that is not held
        self._ended.set()
        if self._task is not None:
            # Not cancelled: a renewal that is under way may swallow that, and then never end.
            await self._task
            self._task = None
        self._taken = None
        if not await self._driver.run(self._operations.release(owner)):
            raise self._lost_error()

    async def __aenter__(self) -> AsyncLock:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.release()
            return
        with suppress(StateError):  # What the block raised matters more; the TTL frees the lock.
            await self.release()


async def _keep_async(lock: ref[AsyncLock], owner: str, ended: asyncio.Event, pause: float) -> None:
    """Renew a lock until it ends, is lost, or is dropped; as :func:`_keep`."""
    while not await _ends_within(ended, pause):
        holder = lock()
        if holder is None or not await holder._keep_once(owner):
            return
        del holder


async def _ends_within(ended: asyncio.Event, seconds: float) -> bool:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)
    return ended.is_set()
