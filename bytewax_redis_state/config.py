"""Settings, frozen and checked when they are made; URLs and the environment are read here only.

Invariant: no secret shows in a ``repr`` or in an error.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, parse_qsl, urlsplit

from bytewax_redis_state.errors import ConfigError

__all__ = ["ENVIRONMENT", "RecoverySettings", "RedisConfig", "redis_url_from_env"]

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "BYTEWAX_REDIS_URL": "where Redis is, as --redis",
        "BYTEWAX_REDIS_NAMESPACE": "prefix of all keys, as --namespace",
        "BYTEWAX_REDIS_CHECKPOINT_INTERVAL": "seconds, as --checkpoint-interval",
        "BYTEWAX_REDIS_SCRATCH": "folder for outboxes, as --scratch",
    }
)
"""The environment variables of this package, and what each stands for."""

_SCHEMES = ("redis", "rediss", "unix")


def redis_url_from_env() -> str | None:
    """Read where Redis is from the environment.

    :returns: ``BYTEWAX_REDIS_URL``, or ``None`` where it is unset or empty.
    """
    return os.environ.get("BYTEWAX_REDIS_URL") or None


def _masked(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    _, at, place = rest.rpartition("@")
    return f"{scheme}{slashes}***@{place}" if at else url


def _split_url(url: str) -> tuple[SplitResult, int | None]:
    parts = urlsplit(url)
    return parts, parts.port


def _checked_url(url: str) -> SplitResult:
    masked = _masked(url)
    hint = "write it as redis://[user:password@]host[:port][/db], rediss://… or unix:///path"
    try:
        # Parsed without user and password first: what the parser complains of, it quotes.
        _split_url(masked)
    except ValueError as error:
        raise ConfigError(f"the Redis URL {masked!r} does not parse: {error}", hint) from None
    try:
        parts, port = _split_url(url)
    except ValueError:
        raise _unescaped(masked) from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"the Redis URL {masked!r} has scheme {parts.scheme!r}", hint)
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError(f"the Redis URL {masked!r} names no socket", hint)
        return parts
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise _unescaped(masked)
    if not parts.hostname:
        raise ConfigError(f"the Redis URL {masked!r} names no host", hint)
    if port == 0:
        raise ConfigError(f"the Redis URL {masked!r} has port 0", hint)
    if not re.fullmatch(r"/?\d*", parts.path):
        raise ConfigError(f"the Redis URL {masked!r} has database {parts.path[1:]!r}", hint)
    return parts


def _unescaped(masked: str) -> ConfigError:
    return ConfigError(
        f"user or password in the Redis URL {masked!r} hold a character that ends them",
        "percent-escape it: / is %2F, @ is %40, # is %23, ? is %3F, : is %3A",
    )


def _positive(**durations: timedelta) -> None:
    for name, value in durations.items():
        if not isinstance(value, timedelta) or value <= timedelta(0):
            raise ConfigError(f"{name} is {value!r}", "give a timedelta above zero")


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """Say where Redis is and how long to wait for it.

    :arg url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database.
    :arg connect_timeout: How long to wait for a connection.
    :arg command_timeout: How long to wait for the answer to a command.
    :raises ConfigError: If the URL does not parse, or a duration is not above zero.
    """

    url: str = field(default="redis://localhost:6379", repr=False)
    connect_timeout: timedelta = timedelta(seconds=5)
    command_timeout: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _checked_url(self.url)
        _positive(connect_timeout=self.connect_timeout, command_timeout=self.command_timeout)

    @property
    def address(self) -> str:
        """Where Redis is, without secrets: what logs and errors may show."""
        parts = _checked_url(self.url)
        if parts.scheme == "unix":
            database = dict(parse_qsl(parts.query)).get("db", "0")
            return f"unix://{parts.path}?db={database}"
        database = parts.path.lstrip("/") or "0"
        return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}/{database}"

    def __repr__(self) -> str:
        return (
            f"RedisConfig(url={self.address!r}, connect_timeout={self.connect_timeout!r}, "
            f"command_timeout={self.command_timeout!r})"
        )


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
        _positive(
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
