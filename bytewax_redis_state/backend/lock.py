"""Locks as their holder uses them: in a ``with`` block, renewed while it runs.

A holder whose process stands still for longer than the TTL loses the lock and does not notice at
once. Only the receiver of its writes can refuse them: send the token with each write, and let the
receiver refuse a token that is lower than one it has seen.

Invariant: a holder never believes that it holds a lock which another holder may have.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from datetime import timedelta
from types import TracebackType
from uuid import uuid4
from weakref import ref

from bytewax_redis_state.backend.driver import AsyncDriver
from bytewax_redis_state.backend.lock_operations import LockGrant, LockOperations, StoredLock
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import LockError, LockLostError, StateError

__all__ = ["LOCK_TTL", "AsyncLock", "Lock"]

LOCK_TTL = timedelta(seconds=10)
"""How long a lock outlives an owner that can't renew it, unless told otherwise."""

_RENEWALS = 3  # in one TTL: a lock outlives one renewal that fails

_log = logging.getLogger(__name__)


class _Ownership:
    """The state of a lock as its holder knows it, without asking the server."""

    def __init__(self, name: Key, ttl: int) -> None:
        self.name = name
        self._ttl = ttl / 1000
        self._grant: LockGrant | None = None
        self._owner = ""
        self._is_lost = False

    @property
    def token(self) -> int:
        """The fencing token; higher than that of every earlier holder.

        :raises LockError: If the lock was not taken.
        """
        if self._grant is None:
            raise LockError(f"the lock {self.name!r} is not held", "use it in a with block")
        return self._grant.token

    @property
    def held(self) -> bool:
        """Whether the lock is certainly ours at this moment."""
        return (
            self._grant is not None and not self._is_lost and time.monotonic() < self._grant.until
        )

    @property
    def lost(self) -> bool:
        """Whether the lock was ours and may be another holder's now."""
        return self._grant is not None and not self.held

    def check(self) -> None:
        """Raise unless the lock is certainly ours at this moment.

        :raises LockLostError: If the lock may be another holder's.
        """
        if not self.held:
            raise self._lost_error()

    def _lost_error(self) -> LockLostError:
        return LockLostError(
            f"the lock {self.name!r} was lost before it was given back",
            "another holder may have changed what it protects: read again, and give a longer ttl",
        )

    def _begin(self) -> str:
        if self._grant is not None:
            raise LockError(
                f"the lock {self.name!r} is held already", "make a lock object per holder"
            )
        self._owner = uuid4().hex
        self._is_lost = False
        return self._owner

    def _renewed(self, until: float | None) -> bool:
        if until is None:
            self._is_lost = True
            _log.warning("event=lock_lost lock=%r", self.name)
        elif self._grant is not None:
            self._grant = self._grant._replace(until=until)
        return until is not None

    def _not_renewed(self, error: StateError) -> bool:
        _log.warning("event=lock_not_renewed lock=%r error=%s", self.name, type(error).__name__)
        return self.held


class Lock(_Ownership, AbstractContextManager["Lock"]):
    """A lock for blocking code. It can be taken again after it was given back.

    The end of the ``with`` block raises ``LockLostError`` if the lock was lost in between, unless
    the block itself raised.
    """

    def __init__(self, stored: StoredLock, *, renew: bool) -> None:
        super().__init__(stored.name, stored.ttl)
        self._stored = stored
        self._renew = renew
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock as soon as it is free.

        :raises LockHeldError: If the lock was not free in time.
        """
        self._grant = self._stored.take(self._begin())
        if self._renew:
            self._ended = threading.Event()
            # A weak reference, so that a lock object that was dropped without release() runs out
            # instead of being renewed for ever.
            args = (ref(self), self._owner, self._ended, self._ttl / _RENEWALS)
            self._thread = threading.Thread(target=_renew_until_ended, args=args, daemon=True)
            self._thread.start()

    def _renew_once(self, owner: str) -> bool:
        try:
            return self._renewed(self._stored.renew(owner))
        except StateError as error:
            return self._not_renewed(error)

    def release(self) -> None:
        """Give the lock back.

        :raises LockLostError: If another holder may have had the lock in between.
        """
        owner = self._owner
        self.token  # noqa: B018 - raises if the lock is not held
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._grant = None
        if not self._stored.release(owner):
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
        # The block's own error is the one to raise; the TTL frees the lock.
        with suppress(StateError):
            self.release()


def _renew_until_ended(lock: ref[Lock], owner: str, ended: threading.Event, pause: float) -> None:
    """Renew a lock until it is given back or lost, or its object is dropped."""
    while not ended.wait(pause):
        holder = lock()
        if holder is None or not holder._renew_once(owner):
            return
        del holder


class AsyncLock(_Ownership, AbstractAsyncContextManager["AsyncLock"]):
    """A lock for coroutines; as :class:`Lock`.

    A task that is cancelled while it takes the lock or gives it back leaves it free: the request
    that is under way is finished first, and a lock that was granted is given back.
    """

    def __init__(self, driver: AsyncDriver, operations: LockOperations, *, renew: bool) -> None:
        super().__init__(operations.name, operations.ttl)
        self._driver = driver
        self._operations = operations
        self._renew = renew
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def acquire(self) -> None:
        """Take the lock as soon as it is free; as :meth:`Lock.acquire`."""
        owner = self._begin()
        self._operations.is_abandoned = False
        taking = asyncio.create_task(self._driver.run(self._operations.take(owner)))
        try:
            self._grant = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._operations.is_abandoned = True
            await _to_its_end(asyncio.create_task(self._give_back(taking, owner)))
            raise
        if self._renew:
            self._ended = asyncio.Event()
            # A weak reference, as in Lock.acquire.
            renewing = _renew_until_ended_async(
                ref(self), self._owner, self._ended, self._ttl / _RENEWALS
            )
            self._task = asyncio.create_task(renewing)

    async def _give_back(self, taking: asyncio.Task[LockGrant], owner: str) -> None:
        """Give a lock back that was granted to a task which no longer waits for it."""
        with suppress(StateError):  # not granted, or the TTL frees it
            await taking
            await self._driver.run(self._operations.release(owner))

    async def _renew_once(self, owner: str) -> bool:
        try:
            return self._renewed(await self._driver.run(self._operations.renew(owner)))
        except StateError as error:
            return self._not_renewed(error)

    async def release(self) -> None:
        """Give the lock back; as :meth:`Lock.release`."""
        self.token  # noqa: B018 - raises if the lock is not held
        await _to_its_end(asyncio.create_task(self._release()))

    async def _release(self) -> None:
        owner = self._owner
        self._ended.set()
        if self._task is not None:
            # Awaited, not cancelled: redis-py may swallow a cancellation during a renewal, and the
            # task would never end.
            await self._task
            self._task = None
        self._grant = None
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
        # The block's own error is the one to raise; the TTL frees the lock.
        with suppress(StateError):
            await self.release()


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Wait for a task to its end, also if this one is cancelled; the cancellation comes then."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _renew_until_ended_async(
    lock: ref[AsyncLock], owner: str, ended: asyncio.Event, pause: float
) -> None:
    """Renew a lock; as :func:`_renew_until_ended`."""
    while not await _ends_within(ended, pause):
        holder = lock()
        if holder is None or not await holder._renew_once(owner):
            return
        del holder


async def _ends_within(ended: asyncio.Event, seconds: float) -> bool:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)
    return ended.is_set()
