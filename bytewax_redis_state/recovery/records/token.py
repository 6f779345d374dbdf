"""The fencing token: which start writes, as every write says and every script compares it.

A generation's number comes from a counter in Redis. A Redis that lost its last writes may give one
number to two starts, and their processes would write to the same keys; so a token is the number
with the random ID of the start, ``<number>-<start ID>``. Invariant: two starts never have the same
token; scripts compare tokens as a whole, and numbers only to tell which one is newer.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from bytewax_redis_state.errors import FencedError

__all__ = ["Token", "overtaken", "start_id"]

_ID_BYTES = 8


def start_id() -> str:
    """Make up the ID of a start."""
    return os.urandom(_ID_BYTES).hex()


class Token(NamedTuple):
    """Who writes.

    :arg generation: Its number.
    :arg start: ID of the start; empty in the founding manifest, which no start has written.
    """

    generation: int
    start: str = ""

    def __str__(self) -> str:
        return f"{self.generation}-{self.start}" if self.start else str(self.generation)

    @classmethod
    def parse(cls, text: str | bytes) -> Token:
        """Read what Redis holds.

        :raises ValueError: If it is no token.
        """
        number, _, start = (text if isinstance(text, str) else text.decode()).partition("-")
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"{text!r} is no generation")
        return cls(int(number), start)


def overtaken(own: Token, by: bytes) -> FencedError:
    """Say that another start has taken the flow over.

    :arg own: Whose write was refused.
    :arg by: Token of the other one, as Redis holds it.
    """
    taken = f"generation {own.generation} of the flow was taken over by"
    number, _, start = by.decode(errors="replace").partition("-")
    if number != str(own.generation):
        return FencedError(f"{taken} generation {number}")
    return FencedError(
        f"{taken} start {start}, which has the same number as start {own.start}: "
        "Redis had forgotten that the number was taken"
    )
