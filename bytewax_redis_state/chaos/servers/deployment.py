"""The interface of a trial's Redis, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import Client, connect

__all__ = ["RedisDeployment"]

_TIMEOUT = timedelta(seconds=30)


class RedisDeployment(ABC):
    """The Redis that holds the state of a trial's flow."""

    @property
    def working_directory(self) -> Path | None:
        """The directory that a flow must run in to find it; ``None`` where any will do."""
        return None

    @property
    @abstractmethod
    def url(self) -> str:
        """Its URL, past the proxy."""

    @abstractmethod
    def listeners(self, processes: int) -> list[Listener]:
        """Give the listeners for a proxy between it and the processes of a flow."""

    @abstractmethod
    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the URL for a process, through open listeners."""

    @abstractmethod
    def start(self) -> object:
        """Start it, and wait until it works."""

    @abstractmethod
    def stop(self) -> None:
        """End all its servers."""

    def wait_recovered(self) -> None:  # noqa: B027 - one server is always ready
        """Wait until it has recovered from the last failover."""

    def client(self, timeout: timedelta = _TIMEOUT) -> Client:
        """Connect to it.

        :arg timeout: For an answer.
        """
        config = RedisConfig(url=self.url, read_timeout=timeout, write_timeout=timeout)
        return connect(config)
