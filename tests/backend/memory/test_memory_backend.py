"""What the memory backend has beyond the contract."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bytewax_redis_state import MemoryStateBackend, RedisConfig
from bytewax_redis_state.backend import StateBackend
from bytewax_redis_state.backend.lock_operations import LOCK_LIFE
from bytewax_redis_state.errors import CheckpointError, NamespaceNotEmptyError


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_publishes_nothing_beyond_the_contract():
    public = {name for name in dir(MemoryStateBackend()) if not name.startswith("_")}
    assert public - set(dir(StateBackend)) == {"aio", "config"}


def test_locks_that_nobody_takes_again_are_forgotten_and_tokens_grow():
    clock = Clock()
    with MemoryStateBackend(clock=clock) as backend:
        with backend.lock("x", ttl=timedelta(seconds=1), renew=False) as lock:
            first = lock.token
        clock.now += LOCK_LIFE.total_seconds() + 2
        with backend.lock("other", renew=False):
            assert len(backend._store._locks) == 1
        with backend.lock("x", renew=False) as lock:
            assert lock.token > first


def test_backends_beside_each_other_are_one_database():
    one = MemoryStateBackend(RedisConfig(key_prefix="a:"))
    inner = MemoryStateBackend(RedisConfig(key_prefix="a:b:"), beside=one)
    beside = MemoryStateBackend(RedisConfig(key_prefix="c:"), beside=one)
    one.put("k", 1)
    with pytest.raises(CheckpointError, match="is a part of the other"):
        one.checkpoint(inner)
    one.checkpoint(beside)
    assert beside.get("k") == 1
    with pytest.raises(NamespaceNotEmptyError):
        one.checkpoint(beside)
