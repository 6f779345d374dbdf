"""A client of a Redis Cluster with the interface of redis-py's client of a single server.

The cluster client of redis-py refuses EVALSHA and MGET in a pipeline, and hides how often it sent a
command. So this one splits commands by node, and sends them with redis-py's clients of single
servers. It follows redirections, which is no retry: a node that redirects a command has not carried
it out.

``backend.transport.routing`` routes commands to a cluster as well, for coroutines too and without
keeping their order; its docstring says why there are two routers. Both use ``server.slots``.

Invariant: a command is carried out at most once; all keys of one command are in one slot.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    ConnectionError,  # noqa: A004 - redis-py's, on purpose
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.keys import slot_of
from bytewax_redis_state.server.slots import SlotTable, slot_of_command

__all__ = ["ClusterClient", "ClusterPipeline"]

Command = tuple[tuple[Any, ...], dict[str, Any]]
"""Name and arguments, and redis-py's options."""

_TRY_AGAIN_SECONDS = 0.05
_MOVING_SECONDS = 5.0  # how long commands wait for a slot that is being moved
_FRESH_SECONDS = 0.5  # a table younger than this is corrected, not read again
_REDIRECTED = (AskError, TryAgainError)  # MovedError is an AskError
_AWAY = (ConnectionError, RedisTimeoutError, ClusterDownError, ReadOnlyError)
_WAITS = ("WAIT", "WAITAOF")


class ClusterClient(redis.Redis):
    """As ``redis.Redis``, for all nodes of a cluster; safe to share between threads.

    SCAN reads all primaries one after the other, SCRIPT is sent to all of them, and other commands
    without a key go to one of them.

    :arg seeds: Some nodes.
    :arg address: Their address, for errors.
    :arg make: Makes the client of one node, with replies in bytes and without retries.
    """

    def __init__(
        self, seeds: Sequence[Host], address: str, make: Callable[[Host], redis.Redis]
    ) -> None:
        self.address = address
        self._seeds = tuple(seeds)
        self._make = make
        self._clients: dict[Host, Any] = {}
        self._cluster_lock = threading.RLock()
        self._table: SlotTable | None = None
        self._table_made = 0.0
        self._threads = ThreadPoolExecutor(16, "cluster")
        super().__init__(connection_pool=self._client(self._seeds[0]).connection_pool)

    def close(self) -> None:
        """Close all connections."""
        self._threads.shutdown(wait=False)
        with self._cluster_lock:
            for client in self._clients.values():
                client.close()

    # -- nodes ----------------------------------------------------------------------------------

    def _client(self, host: Host) -> Any:
        with self._cluster_lock:
            if host not in self._clients:
                client = self._clients[host] = self._make(host)
                client.response_callbacks.pop("CLUSTER SLOTS", None)
            return self._clients[host]

    def primaries(self) -> list[Any]:
        """Give a client of each primary, always in the same order."""
        return [self._client(host) for host in self._slots().nodes]

    def server_of(self, key: bytes) -> Any:
        """Give a client of the primary that serves a key."""
        return self._client(self._host_of(slot_of(key)))

    def by_server(self, commands: Sequence[Command]) -> list[tuple[Any, Sequence[int]]]:
        """Group commands by primary: its client, and the indexes of the commands, in order."""
        return [(self._client(host), places) for host, places in self._grouped(commands).items()]

    def _slots(self) -> SlotTable:
        with self._cluster_lock:
            if self._table is None:
                self._table = self._discover()
                self._table_made = time.monotonic()
            return self._table

    @contextmanager
    def _table_in_use(self) -> Iterator[SlotTable]:
        """Give the table of slots; if a slot was missing in it, the next use reads it again.

        No server announces that a slot is served again.
        """
        try:
            yield self._slots()
        except ConnectionError:
            self.forget()
            raise

    def _host_of(self, slot: int | None) -> Host:
        with self._table_in_use() as table:
            return table.node_of(slot)

    def _discover(self, first: tuple[Host, ...] = ()) -> SlotTable:
        """Read the table of slots from the first node that knows all of them."""
        known = tuple(host for host in self._clients if host not in self._seeds)
        failure: RedisError | None = None
        partial_table: SlotTable | None = None
        for host in dict.fromkeys((*first, *self._seeds, *known)):
            try:
                table = SlotTable(self._client(host).execute_command("CLUSTER SLOTS"), host)
            except _AWAY as error:
                failure = error
            else:
                if table.is_whole:
                    return table
                # A node that has just started may not know all slots yet.
                if table.nodes and partial_table is None:
                    partial_table = table
        if partial_table is not None:
            return partial_table
        raise failure or ClusterDownError("no node of the cluster serves any slot")

    def forget(self) -> None:
        """Read the table again before the next command: a node is down, or no longer a primary."""
        with self._cluster_lock:
            self._table = None

    def note_moves(self, answers: Sequence[Any]) -> None:
        """Note from MOVED answers where slots are now; a node can learn of a move late."""
        for answer in answers:
            if isinstance(answer, MovedError):
                self._move(answer, self._seeds[0])

    def _move(self, error: MovedError, asked: Host) -> None:
        host = Host(error.host or asked.name, int(error.port))
        with self._cluster_lock:
            if time.monotonic() > self._table_made + _FRESH_SECONDS:
                # Where one slot has moved, others have, too; the new owner knows best.
                self._table = self._discover((host,))
                self._table_made = time.monotonic()
            self._slots().move(int(error.slot_id), host)

    # -- commands -------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node that serves its key."""
        name = str(args[0]).upper()
        if name == "SCAN":
            return self._scan(*args, **options)
        if name.startswith("SCRIPT"):
            answers = [c.execute_command(*args, **options) for c in self.primaries()]
            return answers[0]
        return self._routed((args, options), ())

    def _scan(self, name: str, cursor: int, *args: Any, **options: Any) -> Any:
        if int(cursor) == 0:
            self.forget()  # so that a node that has become a primary meanwhile is scanned, too
        host, inner = self._slots().split_cursor(int(cursor))
        try:
            left, keys = self._client(host).execute_command(name, inner, *args, **options)
        except _AWAY:
            self.forget()
            raise
        return self._slots().join_cursor(host, int(left)), keys

    def _routed(self, command: Command, scripts: Sequence[Script]) -> Any:
        """Send a command, and follow redirections, within a bound of number and time."""
        slot = slot_of_command(command[0])
        asking: Host | None = None
        until = time.monotonic() + _MOVING_SECONDS
        for _ in range(int(_MOVING_SECONDS / _TRY_AGAIN_SECONDS)):
            host = asking or self._host_of(slot)
            try:
                return self._sent(host, command, asking=asking is not None)
            except MovedError as error:
                asking = None
                self._move(error, host)
            except AskError as error:
                asking = Host(error.host or host.name, int(error.port))
            except TryAgainError:
                if time.monotonic() > until:
                    raise
                asking = None
                time.sleep(_TRY_AGAIN_SECONDS)
            except NoScriptError:
                if not _load(self._client(host), command, scripts):
                    raise
            except _AWAY:
                self.forget()
                raise
        raise ClusterError("the nodes of the cluster redirect a command to each other")

    def _sent(self, host: Host, command: Command, *, asking: bool) -> Any:
        args, options = command
        client = self._client(host)
        if not asking:
            return client.execute_command(*args, **options)
        with client.pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            answer = pipe.execute(raise_on_error=False)[1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    # -- pipelines ------------------------------------------------------------------------------

    def pipeline(self, transaction: bool = False, shard_hint: Any = None) -> ClusterPipeline:
        """Make a pipeline; it is never a transaction."""
        return ClusterPipeline(self)

    def run_all(self, commands: Sequence[Command], scripts: Sequence[Script]) -> list[Any]:
        """Send commands, those of one node in one trip and to all nodes at once.

        A command without a key goes to the node of the command before it, so ``WAIT`` waits for the
        replicas of that node.

        :arg commands: Commands; their order is kept within a slot.
        :arg scripts: Scripts that they run.
        :returns: One answer for each command; an error if the command was refused.
        :raises RedisError: If a node is down.
        """
        groups = self._grouped(commands)
        answers: list[Any] = [None] * len(commands)
        trips: list[tuple[list[int], Callable[[], list[Any]]]] = [
            (places, partial(self._trip, host, [commands[p] for p in places], scripts))
            for host, places in groups.items()
        ]
        # The first trip is made in this thread.
        trips[1:] = [(places, self._threads.submit(trip).result) for places, trip in trips[1:]]
        failure: BaseException | None = None
        for places, trip in trips:
            try:
                for place, answer in zip(places, trip(), strict=True):
                    answers[place] = answer
            except _AWAY as error:
                failure = error
        if failure is not None:
            self.forget()
            raise failure
        return self._redirected(commands, scripts, answers)

    def _grouped(self, commands: Sequence[Command]) -> dict[Host, list[int]]:
        groups: dict[Host, list[int]] = {}
        host: Host | None = None
        with self._table_in_use() as table:
            for place, (args, _) in enumerate(commands):
                slot = slot_of_command(args)
                if slot is not None or host is None:
                    host = table.node_of(slot)
                groups.setdefault(host, []).append(place)
        return groups

    def _trip(
        self, host: Host, commands: Sequence[Command], scripts: Sequence[Script]
    ) -> list[Any]:
        with self._client(host).pipeline(transaction=False) as pipe:
            pipe.scripts = set(scripts)
            for args, options in commands:
                pipe.execute_command(*args, **options)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers

    def _redirected(
        self, commands: Sequence[Command], scripts: Sequence[Script], answers: list[Any]
    ) -> list[Any]:
        """Send redirected commands again, one by one, to the node that serves their key."""
        moved = [p for p, a in enumerate(answers) if isinstance(a, (*_REDIRECTED, NoScriptError))]
        if moved and any(args[0] in _WAITS for args, _ in commands):
            # The wait was sent to a node that has not carried the command out.
            self.forget()
            raise TryAgainError("a slot moved while commands with WAIT were sent to it")
        for place in moved:
            try:
                answers[place] = self._routed(commands[place], scripts)
            except RedisError as error:
                if isinstance(error, _AWAY):
                    raise
                answers[place] = error
        if any(isinstance(answer, _AWAY) for answer in answers):
            self.forget()
        return answers


def _load(client: redis.Redis, command: Command, scripts: Sequence[Script]) -> bool:
    """Load the script that a command runs, if it is one of ``scripts``."""
    args = command[0]
    found = next((s for s in scripts if args[0] == "EVALSHA" and s.sha == args[1]), None)
    if found is not None:
        client.script_load(found.script)
    return found is not None


class ClusterPipeline(Pipeline):
    """Commands that are sent together, split by node; answers are in the order of commands.

    :arg cluster: The client.
    """

    def __init__(self, cluster: ClusterClient) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, None, None)
        self._cluster = cluster

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send all commands, and give their answers in the same order."""
        stack = cast("list[Command]", list(self.command_stack))
        scripts = tuple(self.scripts)
        self.reset()
        if not stack:
            return []
        answers = self._cluster.run_all(stack, scripts)
        if raise_on_error:
            self.raise_first_error(stack, answers)  # type: ignore[no-untyped-call]
        return answers
