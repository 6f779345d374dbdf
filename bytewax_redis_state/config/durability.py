"""Durability: when a write counts as acknowledged, so that rows may leave the outbox."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bytewax_redis_state.errors import ConfigError

__all__ = ["Durability"]


@dataclass(frozen=True)
class Durability:
    """Say when a write counts as acknowledged.

    :arg level: ``memory``: Redis has carried the write out. ``aof``: it is on the disk of the
        primary. ``replicas``: that many replicas have it in memory; it may be on no disk.
    :arg replicas: Number of replicas; 0 for the other levels.
    """

    level: Literal["memory", "aof", "replicas"] = "memory"
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Read ``memory``, ``aof`` or ``replicas:N``.

        :arg text: As the user wrote it.
        :returns: The level.
        :raises ConfigError: If the text is not a level; names the text.
        """
        if text == "memory":
            return cls()
        if text == "aof":
            return cls("aof")
        counted = re.fullmatch(r"replicas:([1-9]\d{0,2})", text) if isinstance(text, str) else None
        if counted is None:
            raise ConfigError(
                f"durability is {text!r}", "give memory, aof, or replicas:N such as replicas:1"
            )
        return cls("replicas", int(counted[1]))

    def __str__(self) -> str:
        return f"replicas:{self.replicas}" if self.replicas else self.level
