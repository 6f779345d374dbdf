"""The least rights that each role needs in a Redis with users, as rules of ``ACL SETUSER``.

Invariant: no command category and no ``allkeys``; the rules name each command and the key patterns.
``SCAN`` ignores key patterns, so a user with it sees all key names of the database.

``CLIENT SETINFO``, which the client library sends to Redis 7.2 and newer, is left out: older
servers refuse a rule that names it, and the library goes on if it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from bytewax_redis_state.keys import FlowKeys, namespace_pattern, readable_patterns

__all__ = ["COMMANDS", "ROLES", "Role", "acl_rules"]

Role = Literal["runner", "doctor", "reader"]

_CONNECTION = ("client|setname", "info", "ping", "select", "time")
_READING = ("exists", "get", "hgetall", "mget", "pttl", "scan", "xlen", "xrange", "xrevrange")

COMMANDS: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "runner": (
            *_CONNECTION,
            *_READING,
            *("evalsha", "script|exists", "script|load"),
            *("del", "getrange", "hdel", "hget", "hincrby", "hkeys", "hmget", "hset"),
            *("mset", "pexpire", "pexpireat", "set", "unlink", "xadd", "xdel", "xtrim"),
        ),
        "doctor": (*_CONNECTION, *_READING, "dbsize", "hget"),
        "reader": (*_CONNECTION, "get", "hgetall", "mget", "scan"),
    }
)
"""Role to the commands that it sends, directly or in a script."""

ROLES: tuple[Role, ...] = tuple(COMMANDS)
"""``runner`` runs flows. ``doctor`` verifies them and ``reader`` reads state; neither writes."""

_CLUSTERED = ("asking", "cluster|slots")
_DURABLE = {"memory": (), "aof": ("waitaof",), "replicas": ()}
_REPLICATED = ("wait",)  # sent if there are replicas, so that no failover takes a start back


def acl_rules(
    role: Role,
    namespace: str,
    flow_id: str | None = None,
    level: str = "memory",
    *,
    clustered: bool = False,
) -> list[str]:
    """Make the ``ACL SETUSER`` rules of a role, without a password.

    :arg role: The role of the user.
    :arg namespace: Namespace of the keys that it may use.
    :arg flow_id: Flow of the keys; ``None`` for all flows of the namespace.
    :arg level: Durability level of the flows that a runner runs.
    :arg clustered: Whether the rules are for the nodes of a Redis Cluster.
    :returns: The rules: ``reset`` and ``on``, key patterns, commands.
    """
    commands = set(COMMANDS[role])
    if role == "runner":
        commands.update((*_DURABLE[level], *_REPLICATED))
    if clustered:
        commands.update(_CLUSTERED)
    return [
        *("reset", "on"),
        *(f"~{pattern.decode()}" for pattern in _patterns(role, namespace, flow_id)),
        *(f"+{command}" for command in sorted(commands)),
    ]


def _patterns(role: Role, namespace: str, flow_id: str | None) -> tuple[bytes, ...]:
    if role == "reader":
        if flow_id is None:
            return readable_patterns(namespace)
        return FlowKeys(namespace, flow_id).readable_patterns
    if flow_id is None:
        return (namespace_pattern(namespace),)
    return FlowKeys(namespace, flow_id).patterns
