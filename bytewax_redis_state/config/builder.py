"""Settings given call by call, for those who like it better than keyword arguments."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from bytewax_redis_state.config.connection import RedisConfig
from bytewax_redis_state.errors import ConfigError

__all__ = ["RedisConfigBuilder"]


class RedisConfigBuilder:
    """Collect settings; :meth:`build` checks them and makes a :class:`RedisConfig`.

    What isn't called keeps the default of ``RedisConfig``. A later call of the same name counts.
    """

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}

    def _set(self, **settings: Any) -> RedisConfigBuilder:
        self._settings |= settings
        return self

    def url(self, url: str) -> RedisConfigBuilder:
        """Say where Redis is."""
        return self._set(url=url)

    def urls(self, *urls: str) -> RedisConfigBuilder:
        """Say where Redis is, where it is a cluster: URLs of some of its nodes.

        :arg urls: Equal but for host and port.
        :raises ConfigError: If there is none, or they differ in more.
        """
        if len(urls) == 1:
            return self.url(urls[0])
        pieces = [re.fullmatch(r"(rediss?)://(.*@)?([^/?@]+)(.*)", url) for url in urls]
        if not all(pieces) or len({(p[1], p[2], p[4]) for p in pieces if p}) != 1:
            raise ConfigError(
                f"urls has {len(urls)} entries that are no nodes of one cluster",
                "give redis:// or rediss:// URLs that differ in host and port only",
            )
        first, hosts = pieces[0], ",".join(p[3] for p in pieces if p)
        assert first is not None
        return self.url(f"{first[1]}+cluster://{first[2] or ''}{hosts}{first[4]}")

    def key_prefix(self, prefix: str) -> RedisConfigBuilder:
        """Say what every key begins with."""
        return self._set(key_prefix=prefix)

    def default_ttl(self, ttl: timedelta | None) -> RedisConfigBuilder:
        """Say how long values are kept; ``None`` for ever."""
        return self._set(default_ttl=ttl)

    def pool_size(self, min: int, max: int) -> RedisConfigBuilder:  # noqa: A002
        """Say how many connections are opened up front, and how many there are at most."""
        return self._set(pool_min=min, pool_max=max)

    def timeouts(self, connect: timedelta, read: timedelta, write: timedelta) -> RedisConfigBuilder:
        """Say how long to wait; ``read`` and ``write`` must be equal."""
        return self._set(connect_timeout=connect, read_timeout=read, write_timeout=write)

    def retries(
        self,
        attempts: int,
        base: timedelta = RedisConfig.retry_base_delay,
        max: timedelta = RedisConfig.retry_max_delay,  # noqa: A002
    ) -> RedisConfigBuilder:
        """Say how often a failed operation is tried again, and the first and longest wait."""
        return self._set(retry_attempts=attempts, retry_base_delay=base, retry_max_delay=max)

    def cluster_mode(self, on: bool = True) -> RedisConfigBuilder:
        """Say whether this is a Redis Cluster."""
        return self._set(cluster_mode=on)

    def tls(self, on: bool = True) -> RedisConfigBuilder:
        """Insist on TLS, or on none; a default URL follows, one that was given must agree."""
        return self._set(tls=on)

    def pipeline_batch_size(self, size: int) -> RedisConfigBuilder:
        """Say how many keys go into one command of a batch."""
        return self._set(pipeline_batch_size=size)

    def credentials(self, given: Any) -> RedisConfigBuilder:
        """Say who gives user and password for each new connection."""
        return self._set(credentials=given)

    def build(self) -> RedisConfig:
        """Make the settings.

        :raises ConfigError: If a value can't be right, or two contradict each other.
        """
        settings = dict(self._settings)
        if settings.get("tls") is True and "url" not in settings:
            settings["url"] = RedisConfig.url.replace("redis://", "rediss://")
        return RedisConfig(**settings)

    def __repr__(self) -> str:
        hidden = ("url", "credentials")
        shown = {name: "…" if name in hidden else v for name, v in self._settings.items()}
        return f"RedisConfigBuilder({', '.join(f'{name}={v!r}' for name, v in shown.items())})"
