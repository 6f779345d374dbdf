"""Loopback ports: below those that the kernel hands to clients, which would take them."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

__all__ = ["free_addresses", "free_ports"]

_CHOICE = random.SystemRandom()  # several processes look at once


def free_ports(count: int) -> list[int]:
    """Find ports where nobody listens."""
    found: set[int] = set()
    while len(found) < count:
        port = _CHOICE.randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return sorted(found)


def free_addresses(count: int) -> list[str]:
    """Find addresses for the processes of a cluster."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]
