"""What the replicas of a server have: writes that no failover loses.

A failover makes a replica the primary, and what that replica did not have is gone. Invariant: what
was confirmed is on every replica that was in step when it was asked, so on any of them that takes
over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import redis
from redis.client import Pipeline
from redis.exceptions import (
    AskError,
    ConnectionError,  # noqa: A004 - redis-py's, on purpose
    NoScriptError,
    TryAgainError,
)

from bytewax_redis_state.errors import ServerUnavailableError
from bytewax_redis_state.server.client import Client, address_of
from bytewax_redis_state.server.cluster_client import ClusterClient, Command
from bytewax_redis_state.server.sentinel import Primary

__all__ = ["execute_confirmed", "failover_possible", "replicas_in_step", "run_id_of", "server_of"]

_PATIENCE = 30.0
_WAIT_MILLISECONDS = 1000
_AGAIN_SECONDS = 0.05
_ELSEWHERE = (AskError, TryAgainError, NoScriptError)


def server_of(client: Client, key: bytes) -> redis.Redis:
    """Give a client of the server that has a key.

    :arg client: Of that server, or of a cluster.
    """
    return client.server_of(key) if isinstance(client, ClusterClient) else client


def replicas_in_step(server: redis.Redis) -> int:
    """Count the replicas that follow a server: those that a failover may choose.

    :arg server: Of one server.
    """
    primary: Primary | None = server.connection_pool.connection_kwargs.get("primary")
    info = server.info("replication")
    replicas = (info[f"slave{n}"] for n in range(int(info.get("connected_slaves", 0))))
    followers = [replica for replica in replicas if replica.get("state") == "online"]
    # One that is being promoted follows no more, but must not be left out.
    return max(len(followers), 0 if primary is None else _known_to_sentinels(primary))


def _known_to_sentinels(primary: Primary) -> int:
    try:
        return primary.replicas()
    except ConnectionError:  # who can't be asked orders no failover
        return 0


def failover_possible(client: Client) -> bool:
    """Tell whether a failover may take back what a server has acknowledged.

    :arg client: As ``connect`` made it.
    :returns: Whether it is of a cluster, of a primary that Sentinels watch, or of a server that has
        replicas now.
    """
    if isinstance(client, ClusterClient) or "primary" in client.connection_pool.connection_kwargs:
        return True
    return replicas_in_step(client) > 0


def run_id_of(client: Client, *, guarded: bool) -> str:
    """Tell which run of the server this is: one that was started anew may have lost its tail.

    :arg guarded: Whether a failover is possible: what counts then is on all replicas.
    :returns: Its ID; empty where a failover is possible.
    """
    return "" if guarded else str(client.info("server")["run_id"])


def execute_confirmed(client: Client, fill: Callable[[Any], object]) -> list[Any]:
    """Carry out commands, and see that all replicas in step have what they did.

    They are sent again where that can't be seen, or where a slot has moved; the last answers count.

    :arg client: Of one server or of a cluster.
    :arg fill: Puts the commands into a pipeline; all may be repeated.
    :returns: An answer each.
    :raises ServerUnavailableError: If replicas that are connected don't confirm in time.
    :raises redis.RedisError: If a command is refused.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        pipe = client.pipeline(transaction=False)
        fill(pipe)
        answers = _tried(client, pipe)
        if answers is not None:
            pipe.raise_first_error(pipe.command_stack, answers)  # type: ignore[no-untyped-call]
            return answers
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"replicas of Redis at {address_of(client)} are connected, but have not confirmed "
                f"a write in {_PATIENCE:g} s",
                "check the replicas; a start must not rely on writes that a failover could lose",
            )
        time.sleep(_AGAIN_SECONDS)


def _tried(client: Client, pipe: Any) -> list[Any] | None:
    """Try once; ``None`` where not everything is carried out and confirmed."""
    commands = cast("list[Command]", pipe.command_stack)
    answers: list[Any] = [None] * len(commands)
    for server, places in _by_server(client, commands):
        found = _trip(server, [commands[place] for place in places], pipe)
        if found is None:
            return None
        if any(isinstance(answer, _ELSEWHERE) for answer in found):
            if isinstance(client, ClusterClient):
                client.note_moves(found)
            return None
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    return answers


def _by_server(
    client: Client, commands: Sequence[Command]
) -> list[tuple[redis.Redis, Sequence[int]]]:
    if isinstance(client, ClusterClient):
        return client.by_server(commands)
    return [(client, range(len(commands)))]


def _trip(server: redis.Redis, commands: Sequence[Command], like: Pipeline) -> list[Any] | None:
    count = replicas_in_step(server)
    with server.pipeline(transaction=False) as pipe:
        pipe.scripts = set(like.scripts)
        for args, options in commands:
            pipe.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if not count:
            return pipe.execute(raise_on_error=False)
        # In the same trip: on another connection it would wait for nothing.
        pipe.wait(count, _WAIT_MILLISECONDS)
        *answers, waited = pipe.execute(raise_on_error=False)
    if isinstance(waited, Exception):
        raise waited
    return answers if int(waited) >= count else None
