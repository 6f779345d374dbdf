"""A client of a Redis Cluster that looks like one of a single server, and never repeats a command.

redis-py's own refuses EVALSHA and MGET in a pipeline and hides how often it sent what, so the
commands are split by node here, over its clients of single servers. A redirection is followed: the
node that answers so has not carried the command out.

``backend.transport.routing`` routes commands to a cluster as well, for coroutines too and without
keeping their order; its docstring says why there are two routers. Both use ``server.slots``.

Invariant: a command is carried out once; keys of one command share a slot.
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
_PATIENCE = 5.0  # with a slot that is being moved
_FRESH_SECONDS = 0.5
_REDIRECTED = (AskError, TryAgainError)  # MovedError is an AskError
_AWAY = (ConnectionError, RedisTimeoutError, ClusterDownError, ReadOnlyError)
_WAITS = ("WAIT", "WAITAOF")


class ClusterClient(redis.Redis):
    """As ``redis.Redis``, for all nodes of a cluster; safe to share between threads.

    SCAN goes over all primaries, SCRIPT to all of them; what has no key goes to one of them.

    :arg seeds: Some nodes.
    :arg address: Where they are, for people.
    :arg make: Makes the client of one node; replies in bytes, no retries.
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
        """Tell which primary serves which commands, by their places; in order within a slot."""
        return [(self._client(host), places) for host, places in self._grouped(commands).items()]

    def _slots(self) -> SlotTable:
        with self._cluster_lock:
            if self._table is None:
                self._table = self._discover()
                self._table_made = time.monotonic()
            return self._table

    @contextmanager
    def _table_in_use(self) -> Iterator[SlotTable]:
        """Give the table; one that lacks a slot is asked for anew: no server says it is back."""
        try:
            yield self._slots()
        except ConnectionError:
            self.forget()
            raise

    def _host_of(self, slot: int | None) -> Host:
        with self._table_in_use() as table:
            return table.node_of(slot)

    def _discover(self, first: tuple[Host, ...] = ()) -> SlotTable:
        """Ask one node after the other who serves what."""
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
                # A node that has just started may not know of all yet.
                if table.nodes and partial_table is None:
                    partial_table = table
        if partial_table is not None:
            return partial_table
        raise failure or ClusterDownError("no node of the cluster serves any slot")

    def forget(self) -> None:
        """Ask anew before the next command: a node is away, or no primary any more."""
        with self._cluster_lock:
            self._table = None

    def note_moves(self, answers: Sequence[Any]) -> None:
        """Learn from refusals where slots are; a node may be the last to hear of a move."""
        for answer in answers:
            if isinstance(answer, MovedError):
                self._move(answer, self._seeds[0])

    def _move(self, error: MovedError, asked: Host) -> None:
        host = Host(error.host or asked.name, int(error.port))
        with self._cluster_lock:
            if time.monotonic() > self._table_made + _FRESH_SECONDS:
                # Where one slot has moved, others have; the new owner knows best.
                self._table = self._discover((host,))
                self._table_made = time.monotonic()
            self._slots().move(int(error.slot_id), host)

    # -- commands -------------------------------------------------------------------------------

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node that it belongs to."""
        name = str(args[0]).upper()
        if name == "SCAN":
            return self._scan(*args, **options)
        if name.startswith("SCRIPT"):
            answers = [c.execute_command(*args, **options) for c in self.primaries()]
            return answers[0]
        return self._routed((args, options), ())

    def _scan(self, name: str, cursor: int, *args: Any, **options: Any) -> Any:
        if int(cursor) == 0:
            self.forget()  # a node that has taken over since must not be left out
        host, inner = self._slots().split_cursor(int(cursor))
        try:
            left, keys = self._client(host).execute_command(name, inner, *args, **options)
        except _AWAY:
            self.forget()
            raise
        return self._slots().join_cursor(host, int(left)), keys

    def _routed(self, command: Command, scripts: Sequence[Script]) -> Any:
        """Send a command where redirections lead; bounded in number and in time."""
        slot = slot_of_command(command[0])
        asking: Host | None = None
        until = time.monotonic() + _PATIENCE
        for _ in range(int(_PATIENCE / _TRY_AGAIN_SECONDS)):
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
        raise ClusterError("the nodes of the cluster send each other the same command")

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
        """Make a pipeline; it is none of one transaction."""
        return ClusterPipeline(self)

    def run_all(self, commands: Sequence[Command], scripts: Sequence[Script]) -> list[Any]:
        """Send commands, those of one node in one trip and to all nodes at once.

        A command without a key follows the one before it: so ``WAIT`` waits for that one's node.

        :arg commands: In order; it is kept within a slot.
        :arg scripts: What they run.
        :returns: An answer each, the error where one was refused.
        :raises RedisError: If a node is away.
        """
        groups = self._grouped(commands)
        answers: list[Any] = [None] * len(commands)
        trips: list[tuple[list[int], Callable[[], list[Any]]]] = [
            (places, partial(self._trip, host, [commands[p] for p in places], scripts))
            for host, places in groups.items()
        ]
        # The first goes out in this thread.
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
        """Send once more, one by one, what was not carried out because it was elsewhere."""
        moved = [p for p, a in enumerate(answers) if isinstance(a, (*_REDIRECTED, NoScriptError))]
        if moved and any(args[0] in _WAITS for args, _ in commands):
            # A wait would have been for a node that has done nothing.
            self.forget()
            raise TryAgainError("a slot moved under commands that were to be waited for")
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
    """Load the script that a command runs, where it is known."""
    args = command[0]
    found = next((s for s in scripts if args[0] == "EVALSHA" and s.sha == args[1]), None)
    if found is not None:
        client.script_load(found.script)
    return found is not None


class ClusterPipeline(Pipeline):
    """Commands that go out together, split by node; each answer in its command's place.

    :arg cluster: Whose.
    """

    def __init__(self, cluster: ClusterClient) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, None, None)
        self._cluster = cluster

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send everything; answers in the order of the commands."""
        stack = cast("list[Command]", list(self.command_stack))
        scripts = tuple(self.scripts)
        self.reset()
        if not stack:
            return []
        answers = self._cluster.run_all(stack, scripts)
        if raise_on_error:
            self.raise_first_error(stack, answers)  # type: ignore[no-untyped-call]
        return answers
