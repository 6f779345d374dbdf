"""Writes that all replicas have confirmed, so that no failover loses them.

A failover makes a replica the primary, and writes that this replica did not have are lost.
Invariant: a confirmed write is on every replica that was in step when the write was sent, so it is
on the one that becomes the primary.
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

_CONFIRM_SECONDS = 30.0
_WAIT_MILLISECONDS = 1000
_AGAIN_SECONDS = 0.05
_AGAIN = (TryAgainError, NoScriptError)


def server_of(client: Client, key: bytes) -> redis.Redis:
    """Give a client of the server that has a key.

    :arg client: A client of that server, or of a cluster.
    """
    return client.server_of(key) if isinstance(client, ClusterClient) else client


def replicas_in_step(server: redis.Redis) -> int:
    """Count the replicas that are in step with a server: those that a failover can choose.

    :arg server: A client of the server.
    """
    primary: Primary | None = server.connection_pool.connection_kwargs.get("primary")
    info = server.info("replication")
    replicas = (info[f"slave{n}"] for n in range(int(info.get("connected_slaves", 0))))
    followers = [replica for replica in replicas if replica.get("state") == "online"]
    # A replica that is being promoted no longer follows, but Sentinels still count it, and it
    # must not be left out.
    return max(len(followers), 0 if primary is None else _known_to_sentinels(primary))


def _known_to_sentinels(primary: Primary) -> int:
    try:
        return primary.replicas()
    except ConnectionError:  # Sentinels that do not answer can't order a failover either
        return 0


def failover_possible(client: Client) -> bool:
    """Tell whether a failover can take back writes that a server has acknowledged.

    :arg client: As ``connect`` made it.
    :returns: Whether the server is in a cluster, is watched by Sentinels, or has replicas now.
    """
    if isinstance(client, ClusterClient) or "primary" in client.connection_pool.connection_kwargs:
        return True
    return replicas_in_step(client) > 0


def run_id_of(client: Client, *, guarded: bool) -> str:
    """Give the ID of this run of the server: one that was restarted may have lost its last writes.

    :arg guarded: Whether a failover is possible; writes are confirmed by replicas then.
    :returns: The run ID; empty if a failover is possible.
    """
    return "" if guarded else str(client.info("server")["run_id"])


def execute_confirmed(client: Client, fill: Callable[[Any], object]) -> list[Any]:
    """Execute commands, and wait until all replicas in step have confirmed their writes.

    If not all confirm, or a slot has moved, all commands are sent again; the last answers count.

    :arg client: A client of one server or of a cluster.
    :arg fill: Puts the commands into a pipeline; all of them must be idempotent.
    :returns: One answer for each command.
    :raises ServerUnavailableError: If replicas that are connected don't confirm in time.
    :raises redis.RedisError: If a command is refused.
    """
    deadline = time.monotonic() + _CONFIRM_SECONDS
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
                f"a write in {_CONFIRM_SECONDS:g} s",
                "check the replicas; a start must not rely on writes that a failover could lose",
            )
        time.sleep(_AGAIN_SECONDS)


def _tried(client: Client, pipe: Any) -> list[Any] | None:
    """Try once; ``None`` if not all commands were carried out and confirmed."""
    commands = cast("list[Command]", pipe.command_stack)
    answers: list[Any] = [None] * len(commands)
    for server, places in _by_server(client, commands):
        found = _trip(server, [commands[place] for place in places], pipe)
        if found is None:
            return None
        if any(isinstance(answer, _AGAIN) for answer in found):
            return None
        # A redirection is for a client of the cluster. Another one has the URL of a single server.
        if isinstance(client, ClusterClient) and any(isinstance(a, AskError) for a in found):
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
        # In the same trip: WAIT waits for the writes of its own connection only.
        pipe.wait(count, _WAIT_MILLISECONDS)
        *answers, waited = pipe.execute(raise_on_error=False)
    if isinstance(waited, Exception):
        raise waited
    return answers if int(waited) >= count else None
