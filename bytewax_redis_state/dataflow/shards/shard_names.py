"""Names of shards as keys of the engine, chosen so that it spreads them evenly over the workers.

Bytewax sends a state key to worker ``SipHash-1-3(key) % workers`` (Rust's default hasher with zero
keys over the key's bytes and a closing ``0xff``). With the names "0" to "63" the busiest of 8
workers would get 1.6 times its share. So each name has a salt that puts shard ``j`` on worker ``j %
workers``. Names hold for one execution only, and nothing durable contains them. Their form is
``s<shard>.<salt>``.
"""

from __future__ import annotations

from itertools import count

import siphash24

__all__ = ["shard_name", "shard_of_name", "worker_of"]

_ZERO_KEY = bytes(16)


def worker_of(engine_key: str, workers: int) -> int:
    """Tell which worker the engine sends a state key to.

    :arg engine_key: The key as the engine sees it.
    :arg workers: Workers in the whole cluster.
    :returns: The index of the worker.
    """
    digest = siphash24.siphash13(engine_key.encode() + b"\xff", key=_ZERO_KEY).digest()
    # Not intdigest(): that one is signed, Rust's hash is not.
    return int.from_bytes(digest, "little") % workers


def _salted(stem: str, worker: int, workers: int) -> str:
    return next(name for salt in count() if worker_of(name := f"{stem}.{salt}", workers) == worker)


def shard_name(shard: int, workers: int) -> str:
    """Name a shard for an execution with so many workers."""
    return _salted(f"s{shard}", shard % workers, workers)


def shard_of_name(engine_key: str) -> int:
    """Tell which shard has a name."""
    return int(engine_key[1 : engine_key.index(".")])
