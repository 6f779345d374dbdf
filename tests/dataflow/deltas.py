"""What a shard's delta says, with state keys as text."""

from __future__ import annotations

from bytewax_redis_state.codec.delta import unpack_changes


def changes_of(delta: bytes) -> dict[str, bytes | None]:
    """Give state key to envelope, or ``None`` where the key was deleted."""
    return {key.decode(): data for key, data in unpack_changes(delta).items()}
