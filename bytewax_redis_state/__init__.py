"""Redis as the durable home of Bytewax's keyed state.

Names are loaded on first use: the replicator's process needs neither Bytewax nor the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bytewax_redis_state.backend import (
        Lock,
        MemoryStateBackend,
        RedisStateBackend,
        RedisStats,
        StateBackend,
    )
    from bytewax_redis_state.codec import Codec
    from bytewax_redis_state.config import RedisConfig, RedisConfigBuilder, Secrets
    from bytewax_redis_state.dataflow.retention import retain
    from bytewax_redis_state.dataflow.rewrite import shard_stateful_steps
    from bytewax_redis_state.errors import StateError
    from bytewax_redis_state.recovery.redis_recovery import RedisRecovery

    __version__: str

__all__ = [
    "Codec",
    "Lock",
    "MemoryStateBackend",
    "RedisConfig",
    "RedisConfigBuilder",
    "RedisRecovery",
    "RedisStateBackend",
    "RedisStats",
    "Secrets",
    "StateBackend",
    "StateError",
    "retain",
    "shard_stateful_steps",
]

_DEFINED_IN = {
    "Codec": "bytewax_redis_state.codec",
    "Lock": "bytewax_redis_state.backend",
    "MemoryStateBackend": "bytewax_redis_state.backend",
    "RedisConfig": "bytewax_redis_state.config",
    "RedisConfigBuilder": "bytewax_redis_state.config",
    "RedisRecovery": "bytewax_redis_state.recovery.redis_recovery",
    "RedisStateBackend": "bytewax_redis_state.backend",
    "RedisStats": "bytewax_redis_state.backend",
    "Secrets": "bytewax_redis_state.config",
    "StateBackend": "bytewax_redis_state.backend",
    "StateError": "bytewax_redis_state.errors",
    "retain": "bytewax_redis_state.dataflow.retention",
    "shard_stateful_steps": "bytewax_redis_state.dataflow.rewrite",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("bytewax-redis-state")
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
