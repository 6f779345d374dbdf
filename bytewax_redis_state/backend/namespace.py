"""Namespaces: the prefixes of live backends, none of which may begin with another one.

A key is the prefix and then the user's key, so the backend of ``app:`` can't tell its own key
``x:1`` from the key ``1`` of the backend of ``app:x:``. The name of a connection holds the prefix
of its backend, so a new backend finds the others on its server by ``CLIENT LIST``. A registry in
Redis would be a key that no user put there, and would outlive a backend that died. Two backends
that are never alive together are not found: the check sum of an envelope refuses the other's value,
but a plain integer has none.

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
from bytewax_redis_state.errors import ConfigError, ServerAccessError
from bytewax_redis_state.server.client import CLIENT_NAME

__all__ = ["connection_name", "refuse_overlap"]

_CLOSE_SECONDS = 0.05  # until a server has noticed a closed connection
_STEM = f"{CLIENT_NAME}/"


def connection_name(prefix: bytes) -> str:
    """Make the name of a backend's connections, as ``CLIENT LIST`` shows it."""
    return _STEM + quote_from_bytes(prefix, safe=":.-_")


def refuse_overlap(driver: Driver, prefix: bytes) -> None:
    """Refuse a prefix that overlaps with that of another live backend.

    A user who may not run ``CLIENT LIST`` is not refused: the check is a help, not a guarantee.

    :arg driver: Runs operations on the server.
    :arg prefix: The prefix of the new backend.
    :raises ConfigError: If one of the two is a prefix of the other, and they are not equal.
    """
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
            "choose prefixes of which neither begins with the other, such as 'a:' and 'b:'",
        )


def _overlapping(driver: Driver, prefix: bytes) -> bytes | None:
    try:
        others = driver.run(Operation("connect", _other_prefixes(), idempotent=True))
    except ServerAccessError:
        return None
    overlapping = (o for o in others if o.startswith(prefix) or prefix.startswith(o))
    return next((other for other in overlapping if other != prefix), None)


def _other_prefixes() -> CommandGenerator[set[bytes]]:
    own, lines = yield [("CLIENT", "ID"), ("CLIENT", "LIST", "TYPE", "normal")]
    clients = list(_clients(lines.decode(errors="replace")))
    database = next((db for number, _, db in clients if number == own), 0)
    return {
        unquote_to_bytes(name.removeprefix(_STEM))
        for _, name, db in clients
        if db == database and name.startswith(_STEM)
    }


def _clients(text: str) -> Iterator[tuple[int, str, int]]:
    for line in text.splitlines():
        fields = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
        if "id" in fields:
            yield int(fields["id"]), fields.get("name", ""), int(fields.get("db", 0))
