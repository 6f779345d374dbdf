"""The key-value store: TTL, batches, atomic operations, locks, transactions, statistics."""

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
