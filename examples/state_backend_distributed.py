"""The state backend between processes: a lock, counters, a hand-over, times to live.

Run it with ``python examples/state_backend_distributed.py``. It uses the Redis of
``BYTEWAX_REDIS_URL``, else an embedded server in ``./.bytewax-redis-state``.

Three workers share the jobs 1 to 60. A counter gives each job to one of them. A sum and a list are
changed together under a lock. The first worker is killed in the middle of a job, while it holds the
lock: the lock runs out, another worker takes the job over, and every job is done once.
"""

import multiprocessing
import os
import signal
import time
from datetime import timedelta

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.config import redis_url_from_env
from bytewax_redis_state.server.embedded import start_embedded

JOBS = 60
WORKERS = 3
ALIVE = timedelta(seconds=1)


def connect(url: str) -> RedisStateBackend:
    return RedisStateBackend(RedisConfig(url=url, key_prefix="example:shared:", pool_min=1))


def worker(name: str, url: str, dies_at: int) -> None:
    with connect(url) as backend:
        backend.increment("ready")
        while backend.get("ready") < WORKERS:
            time.sleep(0.01)
        while (job := backend.increment("next job")) <= JOBS:
            do(backend, name, job, dies_at)
        while (job := abandoned(backend)) is not None:
            do(backend, name, job, dies_at)


def do(backend: RedisStateBackend, name: str, job: int, dies_at: int) -> None:
    # Who works on a job says so, for as long as it surely lives; then the job is free again.
    if not backend.set_if_not_exists(f"working:{job}", name, ttl=ALIVE):
        return
    time.sleep(0.01)  # the work
    with backend.lock("ledger", ttl=ALIVE) as lock:
        ledger = backend.get("ledger", {"sum": 0, "done": [], "token": 0})
        if job in ledger["done"]:
            return
        if job >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ledger["sum"] += job
        ledger["done"].append(job)
        ledger["token"] = lock.token  # grows with each holder: a late one could be told
        lock.check()
        backend.put("ledger", ledger)
    backend.increment(f"jobs of {name}")


def abandoned(backend: RedisStateBackend) -> int | None:
    """Find a job that nobody has done and nobody works on; wait while somebody does."""
    while True:
        done = set(backend.get("ledger", {"done": []})["done"])
        left = [job for job in range(1, JOBS + 1) if job not in done]
        if not left:
            return None
        for job in left:
            if not backend.contains(f"working:{job}"):
                return job
        time.sleep(0.05)


def main() -> None:
    url = redis_url_from_env() or start_embedded().url
    with connect(url) as backend:
        backend.clear()
        spawn = multiprocessing.get_context("spawn")
        dies_at = {"ann": JOBS // 3, "bob": JOBS + 1, "eve": JOBS + 1}
        workers = [
            spawn.Process(target=worker, args=(name, url, dies_at[name])) for name in dies_at
        ]
        for process in workers:
            process.start()
        for process in workers:
            process.join()
        ledger = backend.get("ledger")
        print("killed:", [w.exitcode == -signal.SIGKILL for w in workers].count(True))
        print("jobs done:", len(ledger["done"]), "each once:", len(set(ledger["done"])) == JOBS)
        print("sum:", ledger["sum"], "expected:", JOBS * (JOBS + 1) // 2)
        counted = sum(backend.get(f"jobs of {name}", 0) for name in dies_at)
        print("counted by the workers:", counted)
        time.sleep(ALIVE.total_seconds() + 0.1)
        print("said to be at work:", backend.count("working:"))
        backend.clear()


if __name__ == "__main__":
    main()
