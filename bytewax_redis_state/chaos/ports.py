"""Loopback ports: below those that the kernel hands to clients, which would take them."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

__all__ = ["free_addresses", "free_ports"]

_CHOICE = random.SystemRandom()  # several processes look at once


_LOWEST, _HIGHEST = 10_000, 32_000


def free_ports(count: int, *, also_above: int = 0) -> list[int]:
    """Find ports where nobody listens.

    :arg also_above: The port that lies so much higher is as good.
    """
    found: set[int] = set()
    while len(found) < count:
        port = _CHOICE.randrange(_LOWEST, _HIGHEST - also_above)
        if all(map(_is_free, {port, port + also_above})):
            found.add(port)
    return sorted(found)


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def free_addresses(count: int) -> list[str]:
    """Find addresses for the processes of a cluster."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]
