"""The embedded server of a trial: the flow itself starts it, and its keeper ends it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bytewax_redis_state.chaos.network.proxy import Listener
from bytewax_redis_state.chaos.servers.deployment import RedisDeployment
from bytewax_redis_state.server.embedded import DIRECTORY, start_embedded
from bytewax_redis_state.server.embedded_directory import EmbeddedDirectory

__all__ = ["OwnServer"]


class OwnServer(RedisDeployment):
    """An embedded server, which the processes of a flow find in their working directory.

    :arg folder: Gets its log when it ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The path of its socket must be short, else each server has a socket in another place.
        self._home = Path(tempfile.mkdtemp(prefix="bytewax-own-"))
        self._directory = EmbeddedDirectory(self._home / DIRECTORY)

    @property
    def working_directory(self) -> Path:
        """The directory that a flow must run in."""
        return self._home

    @property
    def url(self) -> str:
        """The URL of the server that was found last, or of the one that would be started."""
        record = self._directory.read_record()
        return record.config.url if record else f"unix://{self._directory.path / 'server.sock'}"

    def listeners(self, processes: int) -> list[Listener]:
        """Give no listener: a unix socket has no network."""
        return []

    def url_through(self, listeners: Sequence[Listener], process: int) -> str:
        """Give no URL: a flow without one has an embedded server."""
        return ""

    def start(self) -> None:
        """Start it, as a flow does."""
        start_embedded(self._directory.path)

    def kill_keeper(self, *, and_server: bool) -> None:
        """SIGKILL its keeper; the kernel then tells the server to end.

        :arg and_server: SIGKILL the server, too.
        """
        record = self._directory.read_record()
        if record is None:
            return
        for pid in (record.keeper, *([record.server] * and_server)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGKILL it, and delete its directory."""
        self.kill_keeper(and_server=True)
        with suppress(OSError):
            shutil.copy(self._directory.log, self._folder.with_name("server.log"))
        shutil.rmtree(self._home, ignore_errors=True)
