"""Settings, frozen and checked when they are made; URLs and the environment are read here only.

Invariant: no secret shows in a ``repr`` or in an error.
"""

from bytewax_redis_state.config.builder import RedisConfigBuilder
from bytewax_redis_state.config.connection import RedisConfig
from bytewax_redis_state.config.durations import parse_duration, parse_retention
from bytewax_redis_state.config.recovery import ENVIRONMENT, RecoverySettings, redis_url_from_env

__all__ = [
    "ENVIRONMENT",
    "RecoverySettings",
    "RedisConfig",
    "RedisConfigBuilder",
    "parse_duration",
    "parse_retention",
    "redis_url_from_env",
]
