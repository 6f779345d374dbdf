"""The limit of an argument: whether a server takes one of a size.

A server closes the connection of a client that announces an argument above ``proto-max-bulk-len``;
the client, which is still sending, sees a broken pipe, as of a server that is away. ``CONFIG``
would tell the limit, but managed servers forbid it. Invariant: only the announcement is sent.
"""

from __future__ import annotations

from typing import Any

import redis

__all__ = ["LEAST_LIMIT", "takes_argument"]

LEAST_LIMIT = 1_000_000
"""Bytes that each server takes, less the length of a key."""

_ANSWER_SECONDS = 1.0


def takes_argument(client: Any, key: bytes, size: int) -> bool:
    """Tell whether the server of a key takes an argument of a size.

    :arg client: Of one server, or of a cluster.
    :returns: ``False`` only where the server has said so.
    """
    server = client.server_of(key) if hasattr(client, "server_of") else client
    pool = server.connection_pool
    try:
        connection = pool.get_connection()
    except (redis.RedisError, OSError):
        return True
    try:
        connection.send_packed_command([b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % size])
        if connection.can_read(timeout=_ANSWER_SECONDS):
            connection.read_response()
    except redis.ResponseError as error:
        return "bulk length" not in str(error)
    except (redis.RedisError, OSError):
        return True
    finally:
        connection.disconnect()
        pool.release(connection)
    return True
