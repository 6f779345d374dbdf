"""The key-value store: TTL, batches, atomic operations, locks, transactions, statistics.

==================  ===============================================================================
file or room        noun
==================  ===============================================================================
generator.py        generators that describe round trips, and the two functions that run them
values.py           a user's value as stored bytes, and back
statistics.py       what a backend counts: operations, errors, hits, latency
operation.py        one call of a backend: its name, its generator, whether it may be repeated
`transport`         one round trip to a server or to the nodes of a cluster
operations.py       the operations on keys: get, put, batches, counters, listings
retry_policy.py     when a round trip is tried again
driver.py           the part that runs an operation: blocking, or for asyncio
health.py           the operations that ask how the server is
lock_operations.py  a lock as it is stored, with its fencing token
lock.py             a lock as its holder uses it
transaction.py      reads and writes that are carried out together
namespace.py        the refusal of a prefix that overlaps with another live one
`dump`              all keys to a checkpoint file or to another backend, and back
interface.py        the contract of every state backend
aio.py              the backend on Redis for coroutines
redis_backend.py    the backend on Redis for blocking code
`memory`            the same contract in the memory of this process, for tests
==================  ===============================================================================

A backend describes an operation as a generator; a driver runs it, over a connection pool.
"""

from bytewax_redis_state.backend.aio import AsyncStateBackend
from bytewax_redis_state.backend.dump.checkpoint_file import CheckpointInfo
from bytewax_redis_state.backend.dump.restoration import Restored, UnfinishedRestore
from bytewax_redis_state.backend.health import Health, MemoryUsage
from bytewax_redis_state.backend.interface import StateBackend
from bytewax_redis_state.backend.lock import AsyncLock, Lock
from bytewax_redis_state.backend.memory.memory_backend import MemoryStateBackend
from bytewax_redis_state.backend.operations import Versioned
from bytewax_redis_state.backend.redis_backend import RedisStateBackend
from bytewax_redis_state.backend.statistics import Latency, RedisStats
from bytewax_redis_state.backend.transaction import AsyncTransaction, Transaction
from bytewax_redis_state.backend.values import Key

__all__ = [
    "AsyncLock",
    "AsyncStateBackend",
    "AsyncTransaction",
    "CheckpointInfo",
    "Health",
    "Key",
    "Latency",
    "Lock",
    "MemoryStateBackend",
    "MemoryUsage",
    "RedisStateBackend",
    "RedisStats",
    "Restored",
    "StateBackend",
    "Transaction",
    "UnfinishedRestore",
    "Versioned",
]
