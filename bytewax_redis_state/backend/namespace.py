"""Namespaces: live users of one server, whose keys must not begin with those of another one.

A key is the prefix and then the user's key, so the backend of ``app:`` can't tell its own key
``x:1`` from the key ``1`` of the backend of ``app:x:``. The name of a connection holds the prefix
of its backend, so a new backend finds the others on its server by ``CLIENT LIST``. A registry in
Redis would be a key that no user put there, and would outlive a backend that died. Two backends
that are never alive together are not found: the check sum of an envelope refuses the other's value,
but a plain integer has none.

The connections of a flow name the flow, so a backend whose prefix reaches among its keys is
refused. A flow that does not run is found by its keys, where the database is small. In any case a
backend leaves keys of flows alone (``PrefixKeys.is_users``). So a flow need not look for backends,
which would take a right that it does without.

Invariant: of two live backends on one server whose prefixes overlap, the later one is refused.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, unquote_to_bytes

from bytewax_redis_state.backend.driver import Driver
from bytewax_redis_state.backend.generator import CommandGenerator
from bytewax_redis_state.backend.operation import Operation
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.errors import ConfigError, ServerAccessError
from bytewax_redis_state.keys import (
    FlowKeys,
    PrefixKeys,
    is_flow_key,
    namespace_of,
    reaches_namespace,
)
from bytewax_redis_state.server.client import CLIENT_NAME, flow_in_name

__all__ = ["connection_name", "refuse_overlap", "require_own_room"]

_CLOSE_SECONDS = 0.05  # until a server has noticed a closed connection
_STEM = f"{CLIENT_NAME}/"
_CHOOSE = "choose prefixes of which neither begins with the other, such as 'a:' and 'b:'"
_LOOKS, _LOOK_KEYS = 10, 1000  # how far a database is searched for flows that do not run


def connection_name(prefix: bytes) -> str:
    """Make the name of a backend's connections, as ``CLIENT LIST`` shows it."""
    return _STEM + quote_from_bytes(prefix, safe=":.-_")


def require_own_room(keys: PrefixKeys) -> None:
    """Refuse a prefix under which keys of others lie, whatever the server holds.

    :arg keys: The keys of the new backend.
    :raises ConfigError: If the prefix reaches into the namespace that flows have unless told
        otherwise, or among locks and markers of a backend.
    """
    shown = keys.prefix.decode(errors="replace")
    namespace = RecoverySettings.namespace
    if reaches_namespace(keys.prefix, namespace):
        raise ConfigError(
            f"key_prefix {shown!r} reaches into the namespace {namespace!r}, in which flows keep "
            "their state",
            "choose a prefix that flows do not use, such as 'state:'",
        )
    if keys.holds_own:
        raise ConfigError(
            f"key_prefix {shown!r} lies among the locks of a state backend",
            "choose a prefix without '__bytewax__:'",
        )


def refuse_overlap(driver: Driver, keys: PrefixKeys) -> None:
    """Refuse a prefix that overlaps with that of another live backend, or with keys of a flow.

    A user who may not run ``CLIENT LIST`` is not refused: the check is a help, not a guarantee.

    :arg driver: Runs operations on the server.
    :arg keys: The keys of the new backend.
    :raises ConfigError: If one of the two is a prefix of the other, and they are not equal.
    """
    prefix = keys.prefix
    other = _overlapping(driver, prefix)
    if other is not None:
        # A backend of this process that was dropped without close() has its connections until it
        # is collected, and may look like a live one.
        gc.collect()
        time.sleep(_CLOSE_SECONDS)
        other = _overlapping(driver, prefix)
    if other is not None:
        shown = other.decode(errors="replace")
        raise ConfigError(
            f"key_prefix {prefix.decode()!r} overlaps with {shown!r}, which another backend on "
            "this server uses: each would see keys of the other",
            _CHOOSE,
        )
    flow = _flow_under(driver, keys) if keys.reaches_flows else None
    if flow is not None:
        raise ConfigError(
            f"key_prefix {prefix.decode()!r} reaches into the namespace {flow[0]!r}, in which the "
            f"flow {flow[1]!r} keeps its state on this server",
            _CHOOSE,
        )


def _flow_under(driver: Driver, keys: PrefixKeys) -> tuple[str, str] | None:
    """Find a flow whose keys begin with a prefix: one that runs, or one of the first keys."""
    try:
        return driver.run(Operation("connect", _first_flow(keys), idempotent=True))
    except ServerAccessError:
        return None


def _first_flow(keys: PrefixKeys) -> CommandGenerator[tuple[str, str] | None]:
    for namespace, flow in (yield from _running_flows()):
        if FlowKeys(namespace, flow).overlaps(keys.prefix):
            return namespace, flow
    cursor = -1
    for _ in range(_LOOKS):
        scan = ("SCAN", max(cursor, 0), "MATCH", keys.flow_pattern, "COUNT", _LOOK_KEYS)
        (answer,) = yield [scan]
        cursor = int(answer[0])
        found = next(filter(is_flow_key, answer[1]), None)
        if found is not None:
            return namespace_of(found)
        if not cursor:
            break
    return None


def _overlapping(driver: Driver, prefix: bytes) -> bytes | None:
    try:
        others = driver.run(Operation("connect", _other_prefixes(), idempotent=True))
    except ServerAccessError:
        return None
    overlapping = (o for o in others if o.startswith(prefix) or prefix.startswith(o))
    return next((other for other in overlapping if other != prefix), None)


def _other_prefixes() -> CommandGenerator[set[bytes]]:
    names = yield from _names()
    return {unquote_to_bytes(n.removeprefix(_STEM)) for n in names if n.startswith(_STEM)}


def _running_flows() -> CommandGenerator[list[tuple[str, str]]]:
    flows = map(flow_in_name, (yield from _names()))
    return [flow for flow in flows if flow is not None]


def _names() -> CommandGenerator[set[str]]:
    """Give the names of all connections to this database."""
    own, lines = yield [("CLIENT", "ID"), ("CLIENT", "LIST", "TYPE", "normal")]
    clients = list(_clients(lines.decode(errors="replace")))
    database = next((db for number, _, db in clients if number == own), 0)
    return {name for _, name, db in clients if db == database}


def _clients(text: str) -> Iterator[tuple[int, str, int]]:
    for line in text.splitlines():
        fields = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
        if "id" in fields:
            yield int(fields["id"]), fields.get("name", ""), int(fields.get("db", 0))
