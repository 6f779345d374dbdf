"""What a trial asks of its Redis, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta

from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import Client, connect

__all__ = ["RedisDeployment"]

_PATIENCE = timedelta(seconds=30)


class RedisDeployment(ABC):
    """Where the flow of a trial keeps its state."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is."""

    @abstractmethod
    def listeners(self, processes: int) -> list[Listener]:
        """Give the listeners that are to be between it and the processes of a flow."""

    @abstractmethod
    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give the URL for a process, when the listeners are open."""

    @abstractmethod
    def start(self) -> object:
        """Start it, and wait until it works."""

    @abstractmethod
    def stop(self) -> None:
        """End it."""

    def settle(self) -> None:  # noqa: B027 - one server has nobody to wait for
        """Wait until it can bear the next fault."""

    def client(self, patience: timedelta = _PATIENCE) -> Client:
        """Connect to it.

        :arg patience: With a server that does not answer.
        """
        config = RedisConfig(url=self.url, read_timeout=patience, write_timeout=patience)
        return connect(config)
