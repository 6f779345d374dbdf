"""Look over a value before it is packed, to see whether msgpack can hold it exactly.

msgpack writes a value once per reference to it, so two references to one list would come back as
two lists, and a cycle never ends. It also packs a bytearray as bytes without asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bytewax_redis_state.codec.classes import Shape, Unfit
from bytewax_redis_state.codec.shapes import LEAVES

__all__ = ["is_flat", "survey"]

# msgpack packs 511 or 1,024 levels, by version, and 1.2 packs one level more than it reads.
_DEPTH = 500


def is_flat(value: Any) -> bool:
    """Tell quickly that a value holds nothing but scalars; ``False`` where it isn't certain."""
    kind = type(value)
    if kind is list or kind is tuple:
        return LEAVES.issuperset(map(type, value))
    if kind is dict:
        return LEAVES.issuperset(map(type, value.values())) and LEAVES.issuperset(map(type, value))
    return kind in LEAVES


def survey(value: Any, shapes: Mapping[type, Shape | None]) -> bool:
    """Check every container inside a value.

    Immutable values may be shared: nobody can tell the copies apart, except by ``is``.

    :arg value: Any value.
    :arg shapes: The shape of every type; ``None`` where it is foreign.
    :returns: Whether it holds a bytearray, which msgpack must not see.
    :raises Unfit: If it holds a cycle, a mutable value twice, a foreign class, or is too deep.
    """
    has_bytearray = False
    once: set[int] = set()
    twice: set[int] = set()
    layer = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for node in layer:
            kind = type(node)
            shape = shapes[kind]
            if shape is None:
                raise Unfit(node, "is of a foreign class")
            has_bytearray |= kind is bytearray
            inner = [part for part in shape.parts(node) if type(part) not in LEAVES]
            if not inner and not shape.mutable:
                continue
            if id(node) in once:
                if shape.mutable:
                    raise Unfit(node, "is reached twice (shared, or a cycle)")
                # Go in once more, to meet what is mutable inside again; a third time adds nothing.
                if id(node) in twice:
                    continue
                twice.add(id(node))
            once.add(id(node))
            below += inner
        if not below:
            return has_bytearray
        layer = below
    raise Unfit(layer[0], f"is nested deeper than {_DEPTH} levels")
