"""How a trip is split over the nodes of a cluster, and where what has moved is sent instead.

A trip is a generator: it yields the legs of one round, or a pause, and is sent what came of each
leg. A blocking and an asyncio wire run the same ones. Invariant: what is sent again was not carried
out where it was before.
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

from bytewax_redis_state.backend.operation import Command, Pause
from bytewax_redis_state.backend.transport.trip import TripError
from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.server.slots import SlotTable, slot_of_command

__all__ = ["Leg", "Router", "Trip"]

_ROUNDS = 40
_TRY_AGAIN = Pause(0.05)
_FRESH_SECONDS = 0.5
_ASKING: Command = ("ASKING",)


class Leg(NamedTuple):
    """What one node gets in a round."""

    host: Host
    commands: list[Command]


Outcome = list[Any] | TripError
Trip = Generator["list[Leg] | Pause", Any, list[Any]]


class Router:
    """Knows which node serves what; any number of threads may share one.

    :arg seeds: Some nodes.
    """

    def __init__(self, seeds: Sequence[Host]) -> None:
        self._seeds = tuple(seeds)
        self._table: SlotTable | None = None
        self._made = 0.0

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The primaries, once there was a trip."""
        return self._table.nodes if self._table is not None else ()

    def trip(self, commands: Sequence[Command]) -> Trip:
        """Send commands where they belong.

        :arg commands: Their order doesn't matter; keys of one command share a slot.
        :returns: One reply each; where a node refused one, its error.
        :raises TripError: If a node is away.
        """
        if any(command[0] == "SCAN" and not command[1] for command in commands):
            self._table = None  # a node that has taken over since must not be left out
        replies: list[Any] = [None] * len(commands)
        left, asking = dict(enumerate(commands)), dict[int, Host]()
        for _ in range(_ROUNDS):
            table = yield from self._known()
            places = self._places(table, left, asking)
            outcomes = yield [_leg(table, host, left, at, asking) for host, at in places.items()]
            for (host, at), outcome in zip(places.items(), outcomes, strict=True):
                if isinstance(outcome, TripError):
                    self._table = None
                    raise outcome
                plain = iter(outcome)
                for place in at:
                    if place in asking:
                        next(plain)
                    replies[place] = _heeded(table, host, commands[place], next(plain))
            asking = {}
            yield from self._follow(left, replies, asking)
            left = {place: commands[place] for place in left if _is_elsewhere(replies[place])}
            if not left:
                return replies
        return replies

    def _known(self) -> Generator[list[Leg], Any, SlotTable]:
        if self._table is None:
            self._table = yield from self._discover(self._seeds)
            self._made = time.monotonic()
        return self._table

    def _discover(self, hosts: Iterable[Host]) -> Generator[list[Leg], Any, SlotTable]:
        failure: Exception = ClusterDownError("no node of the cluster serves any slot")
        for host in hosts:
            (outcome,) = yield [Leg(host, [("CLUSTER", "SLOTS")])]
            if isinstance(outcome, TripError):
                failure = outcome.cause
            elif isinstance(outcome[0], Exception):
                raise TripError(outcome[0], sent=False)
            elif (table := SlotTable(outcome[0], host)).nodes:
                return table
        raise TripError(failure, sent=False)

    @staticmethod
    def _places(
        table: SlotTable, left: Mapping[int, Command], asking: Mapping[int, Host]
    ) -> dict[Host, list[int]]:
        groups: dict[Host, list[int]] = {}
        try:
            for place, command in left.items():
                if command[0] == "SCAN":
                    host, _ = table.split_cursor(int(command[1]))
                else:
                    host = asking.get(place) or table.node_of(slot_of_command(command))
                groups.setdefault(host, []).append(place)
        except ConnectionError as error:
            raise TripError(error, sent=False) from error
        return groups

    def _follow(
        self, left: Mapping[int, Command], replies: Sequence[Any], asking: dict[int, Host]
    ) -> Generator[list[Leg] | Pause, Any, None]:
        """Learn from what was refused where the next round goes."""
        wait = False
        for place in left:
            reply = replies[place]
            if isinstance(reply, MovedError):
                yield from self._move(reply)
            elif isinstance(reply, AskError):
                asking[place] = Host(reply.host, int(reply.port))
            elif isinstance(reply, ClusterDownError | ReadOnlyError):
                self._table = None
            wait = wait or isinstance(reply, TryAgainError)
        if wait:
            yield _TRY_AGAIN

    def _move(self, moved: MovedError) -> Generator[list[Leg], Any, None]:
        host = Host(moved.host, int(moved.port))
        if self._table is None or time.monotonic() > self._made + _FRESH_SECONDS:
            # Where one slot has moved, others have; the new owner knows best.
            self._table = yield from self._discover((host, *self._seeds))
            self._made = time.monotonic()
        self._table.move(int(moved.slot_id), host)


def _is_elsewhere(reply: object) -> bool:
    return isinstance(reply, AskError | TryAgainError)  # MovedError is an AskError


def _leg(
    table: SlotTable,
    host: Host,
    left: Mapping[int, Command],
    places: Sequence[int],
    asking: Mapping[int, Host],
) -> Leg:
    commands: list[Command] = []
    for place in places:
        command = left[place]
        if place in asking:
            commands.append(_ASKING)
        if command[0] == "SCAN":
            _, inner = table.split_cursor(int(command[1]))
            command = ("SCAN", inner, *command[2:])
        commands.append(command)
    return Leg(host, commands)


def _heeded(table: SlotTable, host: Host, command: Command, reply: Any) -> Any:
    if command[0] != "SCAN" or isinstance(reply, Exception):
        return reply
    return [table.join_cursor(host, int(reply[0])), reply[1]]
