"""The state backend in one sitting: values, TTL, batches, counters, transactions, checkpoints.

Run it with ``python examples/state_backend_basics.py``. It uses the Redis of ``BYTEWAX_REDIS_URL``,
else an embedded server in ``./.bytewax-redis-state``, and a prefix of its own.
"""

import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from bytewax_redis_state import RedisConfig, RedisStateBackend
from bytewax_redis_state.config import redis_url_from_env
from bytewax_redis_state.server.embedded import start_embedded


@dataclass
class Cart:
    """What somebody is about to buy."""

    items: list[tuple[str, int]]
    seen: datetime


def url() -> str:
    return redis_url_from_env() or start_embedded().url


def values(backend: RedisStateBackend) -> None:
    cart = Cart([("tea", 2)], datetime(2024, 5, 6, 7, 8, tzinfo=timezone.utc))
    backend.put("cart:ann", cart)
    print("the same value and types:", backend.get("cart:ann") == cart)
    print("a default for a missing key:", backend.get("cart:bob", default="none"))
    print("deleted:", backend.delete("cart:ann"), "and again:", backend.delete("cart:ann"))


def times_to_live(backend: RedisStateBackend) -> None:
    backend.put("session:1", "signed in", ttl=timedelta(minutes=5))
    left = backend.ttl("session:1")
    print("a session has time left:", left is not None and left <= timedelta(minutes=5))
    backend.persist("session:1")
    print("after persist:", backend.ttl("session:1"))


def batches(backend: RedisStateBackend) -> None:
    backend.batch_put({f"score:{n}": {"points": n * n} for n in range(1000)})
    found = backend.batch_get(["score:3", "score:4", "score:missing"])
    print("a missing key is not in the answer:", found)
    print("keys that start with score:", backend.count("score:"))


def atomic(backend: RedisStateBackend) -> None:
    print("visits:", backend.increment("visits"), backend.increment("visits", by=10))
    print("first come:", backend.set_if_not_exists("seat:7", "ann"))
    print("second come:", backend.set_if_not_exists("seat:7", "bob"))
    read = backend.get_with_version("seat:7")
    backend.put("seat:7", "eve")  # somebody was faster
    print("written over eve:", backend.compare_and_put("seat:7", "bob", read.version) is not None)


def transfer(backend: RedisStateBackend) -> None:
    backend.batch_put({"{bank}:ann": 100, "{bank}:bob": 0})

    def move(tx) -> None:
        tx.put("{bank}:ann", tx.get("{bank}:ann") - 30)
        tx.put("{bank}:bob", tx.get("{bank}:bob") + 30)

    backend.transact(move, tag="bank", retry=3)
    print("after the transfer:", backend.batch_get(["{bank}:ann", "{bank}:bob"]))


def checkpoints(backend: RedisStateBackend) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shop.ckpt"
        taken = backend.checkpoint(file)
        print("the file is sound:", backend.verify(file) == taken)
        held = backend.count()
        backend.clear()
        print("restored:", backend.restore(file).keys == held)


def main() -> None:
    config = RedisConfig(url=url(), key_prefix="example:basics:", pool_min=1)
    with RedisStateBackend(config) as backend:
        backend.clear()
        values(backend)
        times_to_live(backend)
        batches(backend)
        atomic(backend)
        transfer(backend)
        checkpoints(backend)
        stats = backend.stats()
        print(f"hit rate {stats.hit_rate:.0%}, errors {stats.failed}")
        backend.clear()


if __name__ == "__main__":
    main()
