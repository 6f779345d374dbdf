"""Settings, frozen and checked when they are made; URLs and the environment are read here only.

====================  ==========================================================
file                  noun
====================  ==========================================================
redis_config.py       the connection to Redis: ``RedisConfig``, and its builder
recovery_settings.py  a flow's recovery, and the environment variables for it
secrets.py            the keys for encryption and signatures
topology.py           the servers behind a URL: single, Sentinels, cluster
urls.py               checked and masked Redis URLs
loading.py            settings from environment variables and TOML files
checks.py             checks of single values
ownership.py          whose a file is, and who else may change it
booleans.py           ``true``, ``on``, ``no`` … as text
durability.py         ``memory``, ``aof`` or ``replicas:N``
durations.py          ``7d``, ``1h30m`` … as text, and retentions
sizes.py              ``512MiB`` … as text
====================  ==========================================================

Invariant: no secret shows in a ``repr`` or in an error.
"""

from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.config.durations import parse_duration, parse_retention
from bytewax_redis_state.config.recovery_settings import (
    ENVIRONMENT,
    RecoverySettings,
    credentials_from_env,
    redis_url_from_env,
)
from bytewax_redis_state.config.redis_config import RedisConfig, RedisConfigBuilder
from bytewax_redis_state.config.secrets import SECRETS_ENVIRONMENT, Secrets
from bytewax_redis_state.config.sizes import parse_size, shown_size

__all__ = [
    "ENVIRONMENT",
    "SECRETS_ENVIRONMENT",
    "Durability",
    "RecoverySettings",
    "RedisConfig",
    "RedisConfigBuilder",
    "Secrets",
    "credentials_from_env",
    "parse_duration",
    "parse_retention",
    "parse_size",
    "redis_url_from_env",
    "shown_size",
]
