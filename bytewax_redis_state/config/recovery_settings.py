"""The settings of a flow's recovery, and the environment variables that set them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from bytewax_redis_state.config.booleans import parse_boolean
from bytewax_redis_state.config.checks import check_durations
from bytewax_redis_state.config.durability import Durability
from bytewax_redis_state.config.durations import parse_duration, parse_retention
from bytewax_redis_state.config.secrets import SECRETS_ENVIRONMENT, Secrets
from bytewax_redis_state.config.sizes import parse_size
from bytewax_redis_state.errors import ConfigError

__all__ = [
    "ENVIRONMENT",
    "MOST_SHARDS",
    "RecoverySettings",
    "credentials_from_env",
    "redis_url_from_env",
]

MOST_SHARDS = 4096
"""The largest number of shards of a flow."""

_MILLISECOND = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_CENTURY = timedelta(days=36525)

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "BYTEWAX_REDIS_URL": "where Redis is, as --redis",
        "BYTEWAX_REDIS_CREDENTIALS": "module:function, as --credentials",
        "BYTEWAX_REDIS_NAMESPACE": "prefix of all keys, as --namespace",
        "BYTEWAX_REDIS_CHECKPOINT_INTERVAL": "seconds, as --checkpoint-interval",
        "BYTEWAX_REDIS_SCRATCH": "folder for outboxes, as --scratch",
        "BYTEWAX_REDIS_RETENTION": "STEP=7d,STEP=forever, as --retention",
        "BYTEWAX_REDIS_WINDOW_GRACE": "a duration, as --window-grace",
        "BYTEWAX_REDIS_DOWNTIME_ALLOWANCE": "a duration, as --downtime-allowance",
        "BYTEWAX_REDIS_DURABILITY": "memory, aof or replicas:N, as --durability",
        "BYTEWAX_REDIS_MAX_LAG": "a size, as --max-lag",
        "BYTEWAX_REDIS_FAST_PATHS": "true or false, as --no-fast-paths",
        "BYTEWAX_REDIS_COMPRESSION": "zstd or zlib, as --compression",
        **SECRETS_ENVIRONMENT,
    }
)
"""Environment variable to its meaning; all variables of this package."""


def redis_url_from_env() -> str | None:
    """Read the URL of Redis from the environment.

    :returns: ``BYTEWAX_REDIS_URL``, or ``None`` where it is unset or empty.
    """
    return os.environ.get("BYTEWAX_REDIS_URL") or None


def credentials_from_env() -> str | None:
    """Read from the environment the name of the function that gives user and password.

    :returns: ``BYTEWAX_REDIS_CREDENTIALS``, or ``None`` where it is unset or empty.
    """
    return os.environ.get("BYTEWAX_REDIS_CREDENTIALS") or None


def _default_scratch() -> Path:
    return Path(os.environ.get("BYTEWAX_REDIS_SCRATCH") or tempfile.gettempdir())


def _retention_from_env() -> dict[str, timedelta | None]:
    listed = os.environ.get("BYTEWAX_REDIS_RETENTION") or ""
    with _named("BYTEWAX_REDIS_RETENTION"):
        return parse_retention(part.strip() for part in listed.split(",") if part.strip())


def _duration_from_env(name: str, otherwise: timedelta) -> timedelta:
    text = os.environ.get(name)
    with _named(name):
        return parse_duration(text) if text else otherwise


def _size_from_env(name: str) -> int | None:
    text = os.environ.get(name)
    with _named(name):
        return parse_size(text) if text else None


def _switch_from_env(name: str) -> bool:
    text = os.environ.get(name)
    with _named(name):
        return parse_boolean(text) if text else True


def _compression_from_env() -> Any:
    return os.environ.get("BYTEWAX_REDIS_COMPRESSION") or None


@contextmanager
def _named(variable: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error.message}", error.hint) from None


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """Settings of a flow's recovery.

    :arg namespace: Prefix of all keys; namespaces never see each other's keys.
    :arg checkpoint_interval: Time between two folds of the journal into the keyed state.
    :arg scratch: Folder for the outboxes; each execution makes a private folder in it.
    :arg shards: Number of shards; fixed for a flow's life.
    :arg allow_pickle: Whether values that msgpack can't hold may be pickled, and read back.
    :arg allow_imports: Full names of modules that may be imported to read a value, if pickle is
        not allowed and the module is not loaded yet.
    :arg compression: ``"zstd"``, ``"zlib"`` or ``None``, for values of 1 KiB and more; both are
        always read. Default: ``BYTEWAX_REDIS_COMPRESSION``.
    :arg secrets: Keys that values are encrypted and signed with. Default:
        ``BYTEWAX_REDIS_KEY_FILE`` and the other variables of :meth:`.Secrets.from_env`.
    :arg take_over: Whether to take the flow over from an execution that is still alive.
    :arg drop_steps: Steps whose state is to be deleted because the flow no longer has them.
    :arg rename_steps: Old name to new name of steps that were renamed.
    :arg drop_partitions: ``step:partition`` of sources and sinks whose state is to be deleted.
    :arg join_timeout: How long to wait for the other processes of the cluster.
    :arg drain_timeout: How long the replicator may go on shipping after the dataflow has ended.
    :arg retention: Step, as you name it, to how long an idle key of it is kept; ``None`` for ever.
        Overrides the retention that a step has by itself, and :func:`.retain` in the flow.
        Default: ``BYTEWAX_REDIS_RETENTION``.
    :arg window_grace: How long a window step keeps an idle key that no window needs any longer.
        Default: ``BYTEWAX_REDIS_WINDOW_GRACE``.
    :arg downtime_allowance: How long a flow may be down without losing a key that still had time
        to live: Redis drops a key this long after its deadline. Default:
        ``BYTEWAX_REDIS_DOWNTIME_ALLOWANCE``.
    :arg on_expired: Whether to ``"continue"`` or to ``"fail"`` if a flow was down for longer, and
        Redis has dropped keys past their deadlines; a start that fails writes nothing.
    :arg durability: When a write counts as acknowledged, so that rows may leave the outbox:
        ``"memory"``, ``"aof"`` or ``"replicas:N"``; see :class:`.Durability`. Default:
        ``BYTEWAX_REDIS_DURABILITY``.
    :arg max_lag: How many bytes an outbox may hold that Redis does not have yet, before the sources
        wait; ``None`` for half of the free space of the scratch disk, at most 1 GiB. Default:
        ``BYTEWAX_REDIS_MAX_LAG``.
    :arg fast_paths: Whether operators whose logic is known run without a logic object per key.
        Default: ``BYTEWAX_REDIS_FAST_PATHS``.
    :raises ConfigError: If a value is wrong; names the field and the value.
    """

    namespace: str = "bytewax"
    checkpoint_interval: timedelta = timedelta(seconds=10)
    scratch: Path = field(default_factory=_default_scratch)
    shards: int = 64
    allow_pickle: bool = True
    allow_imports: frozenset[str] = frozenset()
    compression: Literal["zstd", "zlib"] | None = field(default_factory=_compression_from_env)
    secrets: Secrets = field(default_factory=Secrets.from_env)
    take_over: bool = False
    drop_steps: frozenset[str] = frozenset()
    rename_steps: Mapping[str, str] = field(default_factory=dict)
    drop_partitions: frozenset[str] = frozenset()
    join_timeout: timedelta = timedelta(seconds=60)
    drain_timeout: timedelta = timedelta(seconds=60)
    retention: Mapping[str, timedelta | None] = field(default_factory=_retention_from_env)
    window_grace: timedelta = field(
        default_factory=lambda: _duration_from_env("BYTEWAX_REDIS_WINDOW_GRACE", _DAY)
    )
    downtime_allowance: timedelta = field(
        default_factory=lambda: _duration_from_env("BYTEWAX_REDIS_DOWNTIME_ALLOWANCE", 7 * _DAY)
    )
    on_expired: Literal["continue", "fail"] = "continue"
    durability: str = field(
        default_factory=lambda: os.environ.get("BYTEWAX_REDIS_DURABILITY") or "memory"
    )
    max_lag: int | None = field(default_factory=lambda: _size_from_env("BYTEWAX_REDIS_MAX_LAG"))
    fast_paths: bool = field(default_factory=lambda: _switch_from_env("BYTEWAX_REDIS_FAST_PATHS"))

    def __post_init__(self) -> None:
        if not self.namespace or not self.namespace.isprintable():
            raise ConfigError(f"namespace is {self.namespace!r}", "give printable text")
        if not 1 <= self.shards <= MOST_SHARDS:
            raise ConfigError(f"shards is {self.shards}", f"give a number from 1 to {MOST_SHARDS}")
        check_durations(
            checkpoint_interval=self.checkpoint_interval,
            join_timeout=self.join_timeout,
            drain_timeout=self.drain_timeout,
            downtime_allowance=self.downtime_allowance,
        )
        self._check_retention()
        self._check_values()
        Durability.parse(self.durability)
        if self.max_lag is not None and (type(self.max_lag) is not int or self.max_lag < 1):
            raise ConfigError(f"max_lag is {self.max_lag!r}", "give a number of bytes, or None")
        if type(self.fast_paths) is not bool:
            raise ConfigError(f"fast_paths is {self.fast_paths!r}", "give True or False")
        both = self.drop_steps & self.rename_steps.keys()
        if both:
            raise ConfigError(
                f"drop_steps and rename_steps both name {min(both)!r}", "drop the step or rename it"
            )
        if len(set(self.rename_steps.values())) < len(self.rename_steps):
            raise ConfigError(
                f"rename_steps gives one name twice: {dict(self.rename_steps)!r}",
                "give each step a name of its own",
            )
        object.__setattr__(self, "scratch", Path(self.scratch))

    def _check_values(self) -> None:
        if self.compression not in (None, "zstd", "zlib"):
            raise ConfigError(
                f"compression is {self.compression!r}",
                "give 'zstd' or 'zlib', or leave compression out",
            )
        if not isinstance(self.secrets, Secrets):
            raise ConfigError(
                f"secrets is of type {type(self.secrets).__name__}",
                "give bytewax_redis_state.Secrets(…)",
            )
        if isinstance(self.allow_imports, str):
            raise ConfigError(
                f"allow_imports is {self.allow_imports!r}", "give a set of module names"
            )
        object.__setattr__(self, "allow_imports", frozenset(self.allow_imports))

    def _check_retention(self) -> None:
        if not isinstance(self.window_grace, timedelta) or self.window_grace < timedelta(0):
            raise ConfigError(
                f"window_grace is {self.window_grace!r}", "give a timedelta of zero or more"
            )
        if self.downtime_allowance > _CENTURY:
            raise ConfigError(
                f"downtime_allowance is {self.downtime_allowance!r}",
                "give a timedelta of at most 100 years",
            )
        if self.on_expired not in ("continue", "fail"):
            raise ConfigError(f"on_expired is {self.on_expired!r}", "give 'continue' or 'fail'")
        for step, kept in self.retention.items():
            if kept is not None and (not isinstance(kept, timedelta) or kept < _MILLISECOND):
                raise ConfigError(
                    f"the retention of step {step!r} is {kept!r}",
                    "give a timedelta of a millisecond or more, or None for ever",
                )
