"""The least rights that each role needs of a Redis with users, as rules of ``ACL SETUSER``.

Invariant: no category, no ``allkeys``: each command is named, and so are the keys. ``SCAN`` knows
no key patterns, so whoever has it can see all key names of the database.

``CLIENT SETINFO``, which the client library sends to Redis 7.2 and newer, is not among them: older
servers refuse a rule that names it, and the library takes no for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from bytewax_redis_state.keys import FlowKeys, namespace_pattern

__all__ = ["COMMANDS", "ROLES", "Role", "acl_rules"]

Role = Literal["runner", "doctor"]

_CONNECTION = ("client|setname", "info", "ping", "select", "time")
_READING = ("exists", "get", "hgetall", "mget", "scan", "xrange")

COMMANDS: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "runner": (
            *_CONNECTION,
            *_READING,
            *("evalsha", "script|exists", "script|load"),
            *("del", "getrange", "hdel", "hget", "hincrby", "hkeys", "hmget", "hset"),
            *("incrby", "mset", "pexpireat", "set", "unlink", "xadd", "xdel", "xtrim"),
        ),
        "doctor": (*_CONNECTION, *_READING, "dbsize", "pttl", "xinfo|stream"),
    }
)
"""Role to the commands that it sends, itself or from a script."""

ROLES: tuple[Role, ...] = tuple(COMMANDS)
"""``runner`` runs flows; ``doctor`` verifies them, and changes nothing."""

_DURABLE = {"memory": (), "aof": ("waitaof",), "replicas": ("wait",)}


def acl_rules(
    role: Role, namespace: str, flow_id: str | None = None, level: str = "memory"
) -> list[str]:
    """Give the rules of a role, for ``ACL SETUSER``; without a password.

    :arg role: What the user is for.
    :arg namespace: Whose keys it may use.
    :arg flow_id: Of which flow; ``None`` for all flows of the namespace.
    :arg level: Of durability, which a runner asks for.
    :returns: One rule each: ``reset`` and ``on``, key patterns, commands.
    """
    if flow_id is None:
        patterns = [namespace_pattern(namespace)]
    else:
        patterns = list(FlowKeys(namespace, flow_id).patterns)
    commands = COMMANDS[role] + (_DURABLE[level] if role == "runner" else ())
    return [
        *("reset", "on"),
        *(f"~{pattern.decode()}" for pattern in patterns),
        *(f"+{command}" for command in sorted(commands)),
    ]
