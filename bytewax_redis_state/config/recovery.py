"""How a flow's state is kept, and what the environment says of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from bytewax_redis_state.config.checks import check_durations
from bytewax_redis_state.errors import ConfigError

__all__ = ["ENVIRONMENT", "RecoverySettings", "redis_url_from_env"]

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "BYTEWAX_REDIS_URL": "where Redis is, as --redis",
        "BYTEWAX_REDIS_NAMESPACE": "prefix of all keys, as --namespace",
        "BYTEWAX_REDIS_CHECKPOINT_INTERVAL": "seconds, as --checkpoint-interval",
        "BYTEWAX_REDIS_SCRATCH": "folder for outboxes, as --scratch",
    }
)
"""The environment variables of this package, and what each stands for."""


def redis_url_from_env() -> str | None:
    """Read where Redis is from the environment.

    :returns: ``BYTEWAX_REDIS_URL``, or ``None`` where it is unset or empty.
    """
    return os.environ.get("BYTEWAX_REDIS_URL") or None


def _default_scratch() -> Path:
    return Path(os.environ.get("BYTEWAX_REDIS_SCRATCH") or tempfile.gettempdir())


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """Say how a flow's state is kept.

    :arg namespace: Prefix of all keys; namespaces never see each other's keys.
    :arg checkpoint_interval: Time between two folds of the journal into the keyed state.
    :arg scratch: Folder for the outboxes; each execution makes a private folder in it.
    :arg shards: Into how many shards the flow's state keys are split; fixed for a flow's life.
    :arg allow_pickle: Whether values that msgpack can't hold may be pickled, and read back.
    :arg take_over: Whether to take the flow over from an execution that is still alive.
    :arg drop_steps: Steps whose state is to be deleted because the flow no longer has them.
    :arg rename_steps: Old name to new name of steps that were renamed.
    :arg drop_partitions: ``step:partition`` of sources and sinks whose state is to be deleted.
    :arg join_timeout: How long to wait for the other processes of the cluster.
    :arg drain_timeout: How long the replicator may go on shipping after the dataflow has ended.
    :raises ConfigError: If a value can't be right; names the field and the value.
    """

    namespace: str = "bytewax"
    checkpoint_interval: timedelta = timedelta(seconds=10)
    scratch: Path = field(default_factory=_default_scratch)
    shards: int = 64
    allow_pickle: bool = True
    take_over: bool = False
    drop_steps: frozenset[str] = frozenset()
    rename_steps: Mapping[str, str] = field(default_factory=dict)
    drop_partitions: frozenset[str] = frozenset()
    join_timeout: timedelta = timedelta(seconds=60)
    drain_timeout: timedelta = timedelta(seconds=60)

    def __post_init__(self) -> None:
        if not self.namespace or not self.namespace.isprintable():
            raise ConfigError(f"namespace is {self.namespace!r}", "give printable text")
        if not 1 <= self.shards <= 4096:
            raise ConfigError(f"shards is {self.shards}", "give a number from 1 to 4096")
        check_durations(
            checkpoint_interval=self.checkpoint_interval,
            join_timeout=self.join_timeout,
            drain_timeout=self.drain_timeout,
        )
        both = self.drop_steps & self.rename_steps.keys()
        if both:
            raise ConfigError(
                f"drop_steps and rename_steps both name {min(both)!r}", "drop it or rename it"
            )
        if len(set(self.rename_steps.values())) < len(self.rename_steps):
            raise ConfigError(
                f"rename_steps gives one name twice: {dict(self.rename_steps)!r}",
                "give each step a name of its own",
            )
        object.__setattr__(self, "scratch", Path(self.scratch))
