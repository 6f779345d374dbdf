"""Values of hostile shape, all legal: deeply nested, large, or at the edge of what a type holds.

Each follows from its number alone. Invariant: the mark of a value tells values and types apart, and
is the same in each process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

__all__ = ["EVERY", "hostile_value", "mark_of", "value_line"]

EVERY = 50
"""Events of a source between two hostile values."""

_MIB = 1024 * 1024


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Callable[[int], Any]:
    def make(number: int) -> Any:
        value: Any = number
        for _ in range(depth):
            value = wrap(value)
        return value

    return make


def _zone(number: int) -> datetime:
    zone = timezone(timedelta(hours=-11, minutes=-number % 60, seconds=1))
    return datetime.max.replace(tzinfo=zone, fold=1)


_SHAPES: Mapping[str, Callable[[int], Any]] = {
    "tuples": _nested(50, lambda value: (value,)),
    "lists": _nested(60, lambda value: [value]),
    "dicts": _nested(40, lambda value: {"a": value}),
    "mixed": _nested(24, lambda value: ({"a": [value]},)),
    "deeper": _nested(200, lambda value: (value,)),
    "wide": lambda number: {f"{n}": (n, number) for n in range(5000)},
    "bytes": lambda number: bytes([number % 256]) * (2 * _MIB),
    "text": lambda number: f"\U0001f600{number}" * (_MIB // 10),
    "no text": lambda number: f"\ud800\x00\n{number}",
    "huge": lambda number: -(10**3000) - number,
    "edges": lambda number: [2**63, -(2**63) - 1, -0.0, float("inf"), 5e-324, True, 1, number],
    "keys": lambda number: {(1, "a"): number, 1: "one", b"1": 1.0, None: frozenset({number})},
    "types": lambda number: (Decimal("-0E-27"), _zone(number), timedelta.max, b"", "", ()),
    "false": lambda number: (0, "", [], {}, False)[number % 5],
    "chunks": lambda number: [bytes([number % 256]) * 1000] * 1000,
    "sets": lambda number: {frozenset({(number,)})},
    ":".join(("", "{braces}", "*?[x]\n\x00")): lambda number: number,
    "long key " * 1000: lambda number: number,
}
"""State key to the function that makes its value of a number.

Their number is a multiple of the partitions of a source: all items of a key come from one.
"""

_KEYS = tuple(_SHAPES)


def hostile_value(number: int) -> tuple[str, Any]:
    """Make the hostile value of a number, with its state key.

    :arg number: The value is the state of its key after the item of this number.
    """
    key = _KEYS[number % len(_KEYS)]
    return key, _SHAPES[key](number)


def mark_of(value: Any) -> str:
    """Give a short text that tells a value from others, also from equal ones of another type."""
    data = repr(value).encode(errors="surrogatepass")
    return f"{type(value).__name__} {hashlib.blake2b(data, digest_size=9).hexdigest()}"


def value_line(number: int, before: Any) -> str:
    """Write the output line of an item: it says what state its key had before."""
    return f"hostile {number} {mark_of(before)}"
