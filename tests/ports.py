"""Loopback ports for tests."""

from __future__ import annotations

from bytewax_redis_state.chaos.network.ports import free_addresses, free_ports

__all__ = ["free_addresses", "free_ports"]
