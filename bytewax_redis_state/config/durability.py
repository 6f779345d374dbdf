"""How sure Redis must be of a write before the outbox lets go of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bytewax_redis_state.errors import ConfigError

__all__ = ["Durability"]


@dataclass(frozen=True)
class Durability:
    """What counts as acknowledged.

    :arg level: ``memory``: Redis has carried it out. ``aof``: it is on the disk of the primary.
        ``replicas``: so many replicas have it in memory, which says nothing of disks.
    :arg replicas: How many; 0 for the other levels.
    """

    level: Literal["memory", "aof", "replicas"] = "memory"
    replicas: int = 0

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Read ``memory``, ``aof`` or ``replicas:N``.

        :arg text: As the user wrote it.
        :returns: The level.
        :raises ConfigError: If it is none; names the text.
        """
        if text == "memory":
            return cls()
        if text == "aof":
            return cls("aof")
        counted = re.fullmatch(r"replicas:([1-9]\d{0,2})", text) if isinstance(text, str) else None
        if counted is None:
            raise ConfigError(
                f"durability is {text!r}", "give memory, aof, or replicas:N as in replicas:1"
            )
        return cls("replicas", int(counted[1]))

    def __str__(self) -> str:
        return f"replicas:{self.replicas}" if self.replicas else self.level
