"""The settings of a connection to Redis, and a builder for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax_redis_state.config.checks import (
    check_at_least,
    check_durations,
    check_timeouts,
    check_ttl,
)
from bytewax_redis_state.config.loading import read_environment, read_toml, refuse_unknown
from bytewax_redis_state.config.topology import Topology, topology_of
from bytewax_redis_state.config.urls import checked_url, database_in, with_lower_scheme
from bytewax_redis_state.errors import ConfigError

__all__ = ["RedisConfig", "RedisConfigBuilder"]


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """Settings of a connection to Redis, and of a state backend on it.

    :arg url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database;
        ``redis+sentinel://host:port,…/service/db`` or ``redis+cluster://host:port,…``, both also
        with ``rediss``.
    :arg key_prefix: The beginning of every key of a state backend.
    :arg default_ttl: How long a state backend keeps a value that is put without ``ttl=``; ``None``
        for ever.
    :arg pool_min: Connections that are opened up front.
    :arg pool_max: Most connections at a time. An operation that needs one more waits for it, for
        ``connect_timeout`` at most.
    :arg connect_timeout: How long to wait for a connection.
    :arg read_timeout: How long to wait for the next bytes of a reply.
    :arg write_timeout: How long to wait until Redis takes the next bytes of a command. It must
        equal ``read_timeout``, because the client library has one timeout for both directions.
    :arg retry_attempts: How often a state backend tries a failed operation again; 0 for never.
    :arg retry_base_delay: Wait before the first retry; each further wait doubles, with jitter.
    :arg retry_max_delay: Longest wait between two retries.
    :arg cluster_mode: Whether this is a Redis Cluster: ``True`` makes a URL of a single server
        the ``redis+cluster://`` URL of its cluster, which in turn makes this ``True``.
    :arg tls: ``True`` to allow a URL with TLS only, ``False`` one without, ``None`` either.
    :arg pipeline_batch_size: How many keys a state backend puts into one command of a batch; a
        trip carries many commands, bounded by bytes.
    :arg credentials: User and password, if the URL has none: a function that returns ``(user,
        password)`` or a password, or a ``redis.CredentialProvider``, or the name of one as
        ``module:name``. It is called for each new connection, from any thread. A flow's replicator
        is a process of its own and imports it, so it must be a name, or have one.
    :raises ConfigError: If a value is wrong, or two contradict each other; names the fields.
    """

    url: str = field(default="redis://localhost:6379", repr=False)
    key_prefix: str = "state:"
    default_ttl: timedelta | None = None
    pool_min: int = 5
    pool_max: int = 50
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=3)
    write_timeout: timedelta = timedelta(seconds=3)
    retry_attempts: int = 3
    retry_base_delay: timedelta = timedelta(milliseconds=100)
    retry_max_delay: timedelta = timedelta(seconds=5)
    cluster_mode: bool = False
    tls: bool | None = None
    pipeline_batch_size: int = 100
    credentials: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.url, str):
            object.__setattr__(self, "url", with_lower_scheme(self.url))
        self._align_cluster()
        self._check_prefix()
        check_ttl("default_ttl", self.default_ttl)
        check_at_least(0, pool_min=self.pool_min, retry_attempts=self.retry_attempts)
        check_at_least(1, pool_max=self.pool_max, pipeline_batch_size=self.pipeline_batch_size)
        check_timeouts(
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            write_timeout=self.write_timeout,
        )
        check_durations(
            retry_base_delay=self.retry_base_delay, retry_max_delay=self.retry_max_delay
        )
        self._check_switches()
        self._check_credentials()
        self._check_pairs()

    def _align_cluster(self) -> None:
        """Make the URL and ``cluster_mode`` agree."""
        topology = topology_of(self.url)
        if self.cluster_mode is True and topology.kind != "cluster":
            self._require_cluster_url(topology)
            object.__setattr__(self, "url", self.url.replace("://", "+cluster://", 1))
        if topology.kind == "cluster" and self.cluster_mode is False:
            object.__setattr__(self, "cluster_mode", True)

    def _require_cluster_url(self, topology: Topology) -> None:
        said = "cluster_mode is True and url"
        if topology.kind == "sentinel" or self.url.startswith("unix"):
            raise ConfigError(
                f"{said} is {topology.address}",
                "give the URL of a node, as redis:// or redis+cluster://",
            )
        database = database_in(checked_url(self.url))
        if database not in (None, "0"):
            raise ConfigError(
                f"{said} names database {database}",
                "remove the database: a Redis Cluster has database 0 only",
            )

    def _check_prefix(self) -> None:
        try:
            sound = bool(self.key_prefix.encode())
        except (AttributeError, UnicodeEncodeError):
            sound = False
        if not sound:
            raise ConfigError(
                f"key_prefix is {self.key_prefix!r}",
                "give text with which no other keys in this Redis begin, such as 'state:'",
            )

    def _check_switches(self) -> None:
        if type(self.cluster_mode) is not bool:
            raise ConfigError(f"cluster_mode is {self.cluster_mode!r}", "give True or False")
        if self.tls is not None and type(self.tls) is not bool:
            raise ConfigError(f"tls is {self.tls!r}", "give True, False or None")

    def _check_credentials(self) -> None:
        given = self.credentials
        if given is None:
            return
        if not (isinstance(given, str) or callable(given) or hasattr(given, "get_credentials")):
            raise ConfigError(
                f"credentials is of type {type(given).__name__}",
                "give a function, a redis.CredentialProvider, or its name as module:name",
            )
        parts = checked_url(self.topology.server_url)
        if parts.username or parts.password:
            raise ConfigError(
                f"the URL of Redis at {self.address} names a user or a password, and credentials "
                "is given too",
                "remove user and password from the URL, or leave credentials out",
            )

    def _check_pairs(self) -> None:
        if self.pool_min > self.pool_max:
            raise ConfigError(
                f"pool_min is {self.pool_min} and pool_max is {self.pool_max}",
                "pool_min must not be above pool_max",
            )
        if self.read_timeout != self.write_timeout:
            raise ConfigError(
                f"read_timeout is {self.read_timeout!r} and write_timeout is "
                f"{self.write_timeout!r}: the client library has one timeout for both",
                "give both the same value",
            )
        if self.retry_base_delay > self.retry_max_delay:
            raise ConfigError(
                f"retry_base_delay is {self.retry_base_delay!r} and retry_max_delay is "
                f"{self.retry_max_delay!r}",
                "retry_base_delay must not be above retry_max_delay",
            )
        self._check_url_pairs()

    def _check_url_pairs(self) -> None:
        has_tls = self.url.startswith("rediss")
        if self.tls is not None and self.tls != has_tls:
            hint = "write the URL as rediss://…" if self.tls else "write the URL as redis://…"
            raise ConfigError(f"tls is {self.tls} and url is {self.address}", hint)

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> RedisConfig:
        """Make the settings for a URL.

        :arg url: Where Redis is.
        :arg settings: Any other field by its name.
        :returns: The settings.
        :raises ConfigError: If there is no such field, or a value is wrong.
        """
        refuse_unknown(settings, _names()[1:])
        return cls(url=url, **settings)

    @classmethod
    def from_env(
        cls, prefix: str = "BYTEWAX_REDIS_", environ: Mapping[str, str] | None = None
    ) -> RedisConfig:
        """Read the settings from environment variables.

        A variable's name is the prefix and a field's name in upper case: ``BYTEWAX_REDIS_URL``,
        ``BYTEWAX_REDIS_POOL_MAX``. Durations are seconds, such as ``0.1``; switches are ``true``
        or ``false``. A variable that is unset or empty leaves the default. Other variables with
        the prefix are ignored.

        :arg prefix: The beginning of the names.
        :arg environ: The variables; ``None`` for the environment of the process.
        :returns: The settings.
        :raises ConfigError: If a value is wrong; names the variable or the field.
        """
        with _found_in("environment"):
            return cls(**read_environment(prefix, _names(), environ))

    @classmethod
    def from_file(cls, path: str | Path, table: str = "") -> RedisConfig:
        """Read the settings from a TOML file.

        A key is a field's name; durations are seconds, such as ``0.1``.

        :arg path: The file.
        :arg table: The table that holds the settings, such as ``tool.bytewax-redis-state``; empty
            for the top of the file.
        :returns: The settings.
        :raises ConfigError: If the file can't be read, or holds a key that is not a field, or a
            wrong value.
        """
        with _found_in(str(path)):
            return cls(**read_toml(Path(path), table, _names()))

    @staticmethod
    def builder() -> RedisConfigBuilder:
        """Make a builder, for settings that are given call by call."""
        return RedisConfigBuilder()

    # Recovery calls it with 30 s: a script over many keys holds up its own answer.
    def patient(self, least: timedelta) -> RedisConfig:
        """Make the same settings with longer timeouts, for scripts that run long.

        :arg least: The shortest read and write timeout of the result.
        """
        wait = max(self.read_timeout, least)
        return replace(self, read_timeout=wait, write_timeout=wait)

    @property
    def address(self) -> str:
        """The address of Redis, without secrets, so that logs and errors may show it."""
        return self.topology.address

    @property
    def topology(self) -> Topology:
        """The servers behind the URL."""
        return topology_of(self.url)

    def __repr__(self) -> str:
        shown = [name for name in _names()[1:] if name != "credentials"]
        rest = "".join(f", {name}={getattr(self, name)!r}" for name in shown)
        # The repr of what the user has given may show its secrets.
        given = None if self.credentials is None else "…"
        return f"RedisConfig(url={self.address!r}{rest}, credentials={given})"


class RedisConfigBuilder:
    """Collect settings; :meth:`build` checks them and makes a :class:`RedisConfig`.

    A setting whose method isn't called keeps its default. Of several calls of a method the last
    one counts.
    """

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}

    def _set(self, **settings: Any) -> RedisConfigBuilder:
        self._settings |= settings
        return self

    def url(self, url: str) -> RedisConfigBuilder:
        """Set the URL of Redis."""
        return self._set(url=url)

    def urls(self, *urls: str) -> RedisConfigBuilder:
        """Set the nodes of a Redis Cluster by the URLs of some of them.

        :arg urls: They differ in host and port only.
        :raises ConfigError: If there is none, or they differ in more.
        """
        if len(urls) == 1:
            return self.url(urls[0])
        plain = map(with_lower_scheme, urls)
        pieces = [re.fullmatch(r"(rediss?)://(.*@)?([^/?@]+)(.*)", url) for url in plain]
        if not all(pieces) or len({(p[1], p[2], p[4]) for p in pieces if p}) != 1:
            raise ConfigError(
                f"the {len(urls)} URLs in urls are not nodes of one cluster",
                "give redis:// or rediss:// URLs that differ in host and port only",
            )
        first, hosts = pieces[0], ",".join(p[3] for p in pieces if p)
        assert first is not None
        return self.url(f"{first[1]}+cluster://{first[2] or ''}{hosts}{first[4]}")

    def key_prefix(self, prefix: str) -> RedisConfigBuilder:
        """Set the beginning of every key."""
        return self._set(key_prefix=prefix)

    def default_ttl(self, ttl: timedelta | None) -> RedisConfigBuilder:
        """Set how long values are kept; ``None`` for ever."""
        return self._set(default_ttl=ttl)

    def pool_size(self, min: int, max: int) -> RedisConfigBuilder:  # noqa: A002
        """Set how many connections are opened up front, and how many there are at most."""
        return self._set(pool_min=min, pool_max=max)

    def timeouts(self, connect: timedelta, read: timedelta, write: timedelta) -> RedisConfigBuilder:
        """Set the timeouts; ``read`` and ``write`` must be equal."""
        return self._set(connect_timeout=connect, read_timeout=read, write_timeout=write)

    def retries(
        self,
        attempts: int,
        base: timedelta = RedisConfig.retry_base_delay,
        max: timedelta = RedisConfig.retry_max_delay,  # noqa: A002
    ) -> RedisConfigBuilder:
        """Set how often a failed operation is tried again, and the first and longest wait."""
        return self._set(retry_attempts=attempts, retry_base_delay=base, retry_max_delay=max)

    def cluster_mode(self, on: bool = True) -> RedisConfigBuilder:
        """Set whether this is a Redis Cluster."""
        return self._set(cluster_mode=on)

    def tls(self, on: bool = True) -> RedisConfigBuilder:
        """Require TLS, or none; the default URL is adapted, a URL that is given must agree."""
        return self._set(tls=on)

    def pipeline_batch_size(self, size: int) -> RedisConfigBuilder:
        """Set how many keys go into one command of a batch."""
        return self._set(pipeline_batch_size=size)

    def credentials(self, given: Any) -> RedisConfigBuilder:
        """Set the function, provider or name that gives user and password for each connection."""
        return self._set(credentials=given)

    def build(self) -> RedisConfig:
        """Make the settings.

        :raises ConfigError: If a value is wrong, or two contradict each other.
        """
        settings = dict(self._settings)
        if settings.get("tls") is True and "url" not in settings:
            settings["url"] = RedisConfig.url.replace("redis://", "rediss://")
        return RedisConfig(**settings)

    def __repr__(self) -> str:
        hidden = ("url", "credentials")
        shown = {name: "…" if name in hidden else v for name, v in self._settings.items()}
        return f"RedisConfigBuilder({', '.join(f'{name}={v!r}' for name, v in shown.items())})"


@contextmanager
def _found_in(place: str) -> Iterator[None]:
    """Add to an error where the value was found."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", error.hint) from None


def _names() -> tuple[str, ...]:
    return tuple(part.name for part in fields(RedisConfig))
