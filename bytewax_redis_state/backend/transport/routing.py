"""How a round trip is split over the nodes of a cluster, and how redirections are followed.

A round trip is a generator: it yields one :class:`NodeCommands` per node, or a pause, and is sent
the :data:`NodeReplies` of each. A blocking pool and an asyncio pool run the same generator.

``server.cluster_client`` routes commands to a cluster as well. There are two routers because their
callers need opposite things. That one looks like ``redis.Redis``, is only blocking, keeps the order
of the commands of a slot, sends ``WAIT`` to the node of the command before it, and hands redis-py's
errors on. This one serves coroutines too, gives up order so that all nodes work at once, and must
tell whether a command was sent before the connection broke, because a state backend says
``UnknownOutcomeError`` or tries again by that. The slot table, the key of a command and the SCAN
over all nodes are the same for both, and stand once, in ``server.slots``.

Invariant: a command that is sent again was not carried out by the node that it was sent to before.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis-py's, on purpose
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from bytewax_redis_state.backend.generator import Command, Pause
from bytewax_redis_state.backend.transport.round_trip import RoundTripError
from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.server.slots import SlotTable, slot_of_command

__all__ = ["NodeCommands", "NodeReplies", "RoundTrip", "Router"]

_ROUNDS = 40
_TRY_AGAIN = Pause(0.05)
_FRESH_SECONDS = 0.5
_ASKING: Command = ("ASKING",)


class NodeCommands(NamedTuple):
    """The commands of a round trip that go to one node."""

    host: Host
    commands: list[Command]


NodeReplies = list[Any] | RoundTripError
RoundTrip = Generator["list[NodeCommands] | Pause", Any, list[Any]]


class Router:
    """Knows which node serves which slot; any number of threads may share one.

    :arg seeds: Some nodes.
    """

    def __init__(self, seeds: Sequence[Host]) -> None:
        self._seeds = tuple(seeds)
        self._table: SlotTable | None = None
        self._made = 0.0

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The primaries; empty before the first round trip."""
        return self._table.nodes if self._table is not None else ()

    def round_trip(self, commands: Sequence[Command]) -> RoundTrip:
        """Send commands to the nodes that serve their keys.

        :arg commands: Their order doesn't matter; keys of one command share a slot.
        :returns: One reply per command; an error where a node refused the command.
        :raises RoundTripError: If a node is away.
        """
        if any(command[0] == "SCAN" and not command[1] for command in commands):
            # A listing begins. A replica that was promoted since must be in it.
            self._table = None
        replies: list[Any] = [None] * len(commands)
        left, asking = dict(enumerate(commands)), dict[int, Host]()
        for _ in range(_ROUNDS):
            table = yield from self._known()
            by_host = self._by_host(table, left, asking)
            answers = yield [
                _node_commands(table, host, left, indexes, asking)
                for host, indexes in by_host.items()
            ]
            for (host, indexes), answer in zip(by_host.items(), answers, strict=True):
                if isinstance(answer, RoundTripError):
                    self._table = None
                    raise answer
                plain = iter(answer)
                for index in indexes:
                    if index in asking:
                        next(plain)  # the reply to ASKING
                    replies[index] = _joined(table, host, commands[index], next(plain))
            asking = {}
            yield from self._follow(left, replies, asking)
            left = {index: commands[index] for index in left if _is_redirected(replies[index])}
            if not left:
                return replies
        return replies

    def _known(self) -> Generator[list[NodeCommands], Any, SlotTable]:
        if self._table is None:
            self._table = yield from self._discover(self._seeds)
            self._made = time.monotonic()
        return self._table

    def _discover(self, hosts: Iterable[Host]) -> Generator[list[NodeCommands], Any, SlotTable]:
        failure: Exception = ClusterDownError("no node of the cluster serves any slot")
        for host in hosts:
            (answer,) = yield [NodeCommands(host, [("CLUSTER", "SLOTS")])]
            if isinstance(answer, RoundTripError):
                failure = answer.cause
            elif isinstance(answer[0], Exception):
                raise RoundTripError(answer[0], sent=False)
            elif (table := SlotTable(answer[0], host)).nodes:
                return table
        raise RoundTripError(failure, sent=False)

    @staticmethod
    def _by_host(
        table: SlotTable, left: Mapping[int, Command], asking: Mapping[int, Host]
    ) -> dict[Host, list[int]]:
        groups: dict[Host, list[int]] = {}
        try:
            for index, command in left.items():
                if command[0] == "SCAN":
                    host, _ = table.split_cursor(int(command[1]))
                else:
                    host = asking.get(index) or table.node_of(slot_of_command(command))
                groups.setdefault(host, []).append(index)
        except ConnectionError as error:
            raise RoundTripError(error, sent=False) from error
        return groups

    def _follow(
        self, left: Mapping[int, Command], replies: Sequence[Any], asking: dict[int, Host]
    ) -> Generator[list[NodeCommands] | Pause, Any, None]:
        """Learn from redirections where the commands go in the next round."""
        wait = False
        for index in left:
            reply = replies[index]
            if isinstance(reply, MovedError):
                yield from self._move(reply)
            elif isinstance(reply, AskError):
                asking[index] = Host(reply.host, int(reply.port))
            elif isinstance(reply, ClusterDownError | ReadOnlyError):
                self._table = None
            wait = wait or isinstance(reply, TryAgainError)
        if wait:
            yield _TRY_AGAIN

    def _move(self, moved: MovedError) -> Generator[list[NodeCommands], Any, None]:
        host = Host(moved.host, int(moved.port))
        if self._table is None or time.monotonic() > self._made + _FRESH_SECONDS:
            # Slots move in numbers. The new owner of one slot is the first to know the others.
            self._table = yield from self._discover((host, *self._seeds))
            self._made = time.monotonic()
        self._table.move(int(moved.slot_id), host)


def _is_redirected(reply: object) -> bool:
    return isinstance(reply, AskError | TryAgainError)  # MovedError is an AskError


def _node_commands(
    table: SlotTable,
    host: Host,
    left: Mapping[int, Command],
    indexes: Sequence[int],
    asking: Mapping[int, Host],
) -> NodeCommands:
    commands: list[Command] = []
    for index in indexes:
        command = left[index]
        if index in asking:
            commands.append(_ASKING)
        if command[0] == "SCAN":
            _, inner = table.split_cursor(int(command[1]))
            command = ("SCAN", inner, *command[2:])
        commands.append(command)
    return NodeCommands(host, commands)


def _joined(table: SlotTable, host: Host, command: Command, reply: Any) -> Any:
    """Give a node's reply, the cursor of a SCAN as that of the SCAN over all nodes."""
    if command[0] != "SCAN" or isinstance(reply, Exception):
        return reply
    return [table.join_cursor(host, int(reply[0])), reply[1]]
