"""A lock as it is stored: taken, renewed and given back in one atomic operation each.

A lock's key goes from Redis :data:`LOCK_LIFE` after the last holder's time was over, or after the
lock was given back. The next token then starts at the server's clock in microseconds, which is
above every earlier token: no server grants a lock more often than once a microsecond.

Invariant: a later holder of a lock has a higher token, also when the lock ran out or its key went
in between. Only a server's clock that goes back by more than :data:`LOCK_LIFE` can break this.
"""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import NamedTuple, Protocol

from bytewax_redis_state.backend.driver import Driver
from bytewax_redis_state.backend.generator import CommandGenerator, Pause
from bytewax_redis_state.backend.operation import operation
from bytewax_redis_state.backend.operations import milliseconds
from bytewax_redis_state.backend.values import Key
from bytewax_redis_state.errors import ArgumentError, LockHeldError
from bytewax_redis_state.keys import PrefixKeys
from bytewax_redis_state.scripts import StateScripts

__all__ = [
    "LOCK_LIFE",
    "LockGrant",
    "LockOperations",
    "RedisStoredLock",
    "StoredLock",
    "next_pause",
    "validity_seconds",
    "wait_seconds",
]

LOCK_LIFE = timedelta(days=1)
"""How long Redis keeps the key of a lock that nobody holds.

Long, because a clock that is set back by less can't make a token fall; and not for ever, because
programs name locks after orders or users, and such names are never used again.
"""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2  # seconds


class LockGrant(NamedTuple):
    """The server's answer to a holder that took a lock.

    :arg token: The fencing token.
    :arg until: When the lock may be another holder's, by our monotonic clock.
    """

    token: int
    until: float


class LockOperations:
    """Describe the operations of one holder on one lock.

    :arg keys: The keys of the backend.
    :arg name: The name of the lock.
    :arg ttl: After which time the lock is free again.
    :arg wait: How long to wait for the lock; ``None`` for ever.
    """

    def __init__(self, keys: PrefixKeys, name: Key, ttl: timedelta, wait: timedelta | None) -> None:
        self.name = name
        self.ttl = milliseconds(ttl)
        self.wait = wait_seconds(wait)
        self._key = keys.lock(name)
        self._life = milliseconds(LOCK_LIFE)
        self.is_abandoned = False
        """Whether nobody waits for the lock any longer: the task that did was cancelled."""

    @operation("lock", idempotent=True)
    def take(self, owner: str) -> CommandGenerator[LockGrant]:
        """Take the lock as soon as it is free."""
        end = None if self.wait is None else time.monotonic() + self.wait
        pause = _FIRST_PAUSE
        while True:
            asked = time.monotonic()
            ((taken, answer),) = yield [
                StateScripts.take_lock(self._key, owner, self.ttl, self._life)
            ]
            if taken:
                return LockGrant(int(answer), asked + validity_seconds(self.ttl))
            if self.is_abandoned:
                end = asked
            yield next_pause(self.name, min(pause, int(answer) / 1000), end)
            pause = min(_LONGEST_PAUSE, pause * 2)

    @operation("renew_lock", idempotent=True)
    def renew(self, owner: str) -> CommandGenerator[float | None]:
        """Start the lock's time again; gives the new end, or None if the lock was lost."""
        asked = time.monotonic()
        (ours,) = yield [StateScripts.renew_lock(self._key, owner, self.ttl, self._life)]
        return asked + validity_seconds(self.ttl) if ours else None

    @operation("release_lock", idempotent=True)
    def release(self, owner: str) -> CommandGenerator[bool]:
        """Give the lock back; tells whether it was still ours."""
        (ours,) = yield [StateScripts.release_lock(self._key, owner, self._life)]
        return bool(ours)


def validity_seconds(ttl: int) -> float:
    """Tell for how many seconds after the request a lock that was granted can't be another's.

    That is less than the TTL: the server counts whole milliseconds, and its clock may run faster
    than ours by up to 1 %. Without the margin a test saw two holders for less than a millisecond.
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
    """Make the pause before the next try, with jitter.

    :arg name: The name of the lock.
    :arg seconds: The longest pause.
    :arg end: When to give up, by the monotonic clock; ``None`` for never.
    :raises LockHeldError: If there is no time left.
    """
    seconds = max(0.001, seconds * random.uniform(0.5, 1.0))
    left = seconds if end is None else end - time.monotonic()
    if left <= 0:
        raise LockHeldError(
            f"the lock {name!r} is held by another holder", "give a longer wait, or try again later"
        )
    return Pause(min(seconds, left))


class StoredLock(Protocol):
    """One lock where it is stored: on a server, or in the memory of this process."""

    name: Key
    ttl: int

    def take(self, owner: str) -> LockGrant:
        """Take the lock as soon as it is free."""

    def renew(self, owner: str) -> float | None:
        """Start the lock's time again; gives the new end, or None if the lock was lost."""

    def release(self, owner: str) -> bool:
        """Give the lock back; tells whether it was still ours."""


class RedisStoredLock:
    """A lock on a server."""

    def __init__(self, driver: Driver, operations: LockOperations) -> None:
        self.name = operations.name
        self.ttl = operations.ttl
        self._driver = driver
        self._operations = operations

    def take(self, owner: str) -> LockGrant:
        """Take the lock as soon as it is free."""
        return self._driver.run(self._operations.take(owner))

    def renew(self, owner: str) -> float | None:
        """Start the lock's time again; gives the new end, or None if the lock was lost."""
        return self._driver.run(self._operations.renew(owner))

    def release(self, owner: str) -> bool:
        """Give the lock back; tells whether it was still ours."""
        return self._driver.run(self._operations.release(owner))
