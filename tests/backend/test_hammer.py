"""Two threads in each of two processes on one namespace: nothing is lost, nothing hangs.

For seconds in the suite; ``make soak`` runs it for a minute.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from datetime import timedelta

from bytewax_redis_state import RedisStateBackend
from bytewax_redis_state.errors import ConflictError

SECONDS = float(os.environ.get("SOAK_SECONDS", "3"))
ACCOUNTS = [f"account{n}" for n in range(5)]


class Hammer(threading.Thread):
    """Count, take locks and move money until the time is over; keep what should come of it."""

    def __init__(self, backend: RedisStateBackend, end: float) -> None:
        super().__init__()
        self.backend = backend
        self.end = end
        self.counted = self.locked = self.moved = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while time.time() < self.end:
                random.choice([self.count, self.count_locked, self.move])()
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error

    def count(self) -> None:
        by = random.randint(1, 5)
        self.backend.increment("counter", by)
        self.counted += by

    def count_locked(self) -> None:
        # Not atomic by itself: only the lock keeps it exact. So is the order of the tokens.
        with self.backend.lock("gate", ttl=timedelta(seconds=20)) as lock:
            value = self.backend.get("locked", {"n": 0, "token": 0})
            assert value["token"] < lock.token
            self.backend.put("locked", {"n": value["n"] + 1, "token": lock.token})
        self.locked += 1

    def move(self) -> None:
        source, target = random.sample(ACCOUNTS, 2)

        def work(tx):
            amount = random.randint(1, 10)
            tx.put(source, tx.get(source) - amount)
            tx.put(target, tx.get(target) + amount)

        try:
            self.backend.transact(work, retry=20)
        except ConflictError:
            return
        self.moved += 1


def hammer(url: str, prefix: str, seconds: float) -> tuple[int, int, int]:
    with RedisStateBackend.from_url(url, key_prefix=prefix, pool_min=1) as backend:
        hammers = [Hammer(backend, time.time() + seconds) for _ in range(2)]
        for one in hammers:
            one.start()
        for one in hammers:
            one.join(seconds + 30)
            assert not one.is_alive(), "hangs"
            assert one.error is None, one.error
    return tuple(sum(getattr(h, n) for h in hammers) for n in ("counted", "locked", "moved"))


def test_counters_are_exact_and_locks_exclusive(redis_url, backend):
    prefix = backend.config.key_prefix
    backend.batch_put(dict.fromkeys(ACCOUNTS, 1000))
    command = [sys.executable, __file__, redis_url, prefix, str(SECONDS)]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [one.communicate(timeout=SECONDS + 60)[0] for one in others]
    assert [one.returncode for one in others] == [0, 0]
    counted, locked, moved = map(sum, zip(*[map(int, a.split()) for a in answers], strict=True))
    assert backend.get("counter") == counted
    assert backend.get("locked")["n"] == locked
    assert sum(backend.batch_get(ACCOUNTS).values()) == 1000 * len(ACCOUNTS)
    assert min(counted, locked, moved) > 10


if __name__ == "__main__":
    print(*hammer(sys.argv[1], sys.argv[2], float(sys.argv[3])))
