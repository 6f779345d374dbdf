"""Locks that this process keeps, for the memory backend."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bytewax_redis_state.backend.lock import Taken, next_pause, surely, wait_seconds
from bytewax_redis_state.backend.operations import milliseconds
from bytewax_redis_state.backend.values import Key

if TYPE_CHECKING:
    from bytewax_redis_state.backend.memory.memory_backend import MemoryStateBackend

__all__ = ["Held", "MemoryLockKeeper"]


@dataclass
class Held:
    """A lock: its holder, until when, and the token that was given last."""

    owner: str = ""
    until: float = 0.0
    token: int = 0
    released: str = ""


class MemoryLockKeeper:
    """A lock that a memory backend keeps."""

    def __init__(
        self,
        backend: MemoryStateBackend,
        held: Held,
        name: Key,
        ttl: timedelta,
        wait: timedelta | None,
    ) -> None:
        self.name = name
        self.ttl = milliseconds(ttl)
        self._backend = backend
        self._held = held
        self._wait = wait_seconds(wait)

    def take(self, owner: str) -> Taken:
        """Take it as soon as it is free."""
        end = None if self._wait is None else time.monotonic() + self._wait
        while not (taken := self._try(owner)):
            time.sleep(next_pause(self.name, 0.01, end).seconds)
        return taken

    def _try(self, owner: str) -> Taken | None:
        held = self._held
        with self._backend.mutex:
            now = self._backend.clock()
            if held.owner and held.owner != owner and held.until > now:
                return None
            held.token += held.owner != owner
            held.owner, held.until = owner, now + self.ttl / 1000
            return Taken(held.token, time.monotonic() + surely(self.ttl))

    def renew(self, owner: str) -> float | None:
        """Let its time start anew; tells until when, None where it is lost."""
        with self._backend.mutex:
            if self._held.owner != owner:
                return None
            self._held.until = self._backend.clock() + self.ttl / 1000
            return time.monotonic() + surely(self.ttl)

    def release(self, owner: str) -> bool:
        """Give it back; tells whether it was still ours."""
        with self._backend.mutex:
            ours = self._held.owner == owner
            if ours:
                self._held.owner, self._held.released = "", owner
            return ours or self._held.released == owner
