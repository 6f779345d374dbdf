"""The check, before a value is packed, that msgpack can hold it exactly.

msgpack writes a value once per reference to it, so two references to one list would come back as
two lists, and a cycle would never end. It also packs a bytearray as bytes without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bytewax_redis_state.codec.extension_types import SCALARS
from bytewax_redis_state.codec.type_format import NotPackable, TypeFormat

__all__ = ["check_exact", "is_flat"]

# msgpack packs 511 or 1,024 levels, depending on its version; 1.2 packs one more than it reads.
_DEPTH = 500


def is_flat(value: Any) -> bool:
    """Tell quickly whether a value holds nothing but scalars; ``False`` where it isn't certain."""
    kind = type(value)
    if kind is list or kind is tuple:
        return SCALARS.issuperset(map(type, value))
    if kind is dict:
        return SCALARS.issuperset(map(type, value.values())) and SCALARS.issuperset(
            map(type, value)
        )
    return kind in SCALARS


def check_exact(value: Any, formats: Mapping[type, TypeFormat | None]) -> bool:
    """Check every container inside a value.

    Immutable values may be shared: nobody can tell copies of them apart, except by ``is``.

    :arg value: Any value.
    :arg formats: The format of every type; ``None`` where it is foreign.
    :returns: Whether it holds a bytearray, which msgpack must not see.
    :raises NotPackable: If it holds a cycle, a mutable value twice, a foreign class, or is too
    deep.
    """
    has_bytearray = False
    once: set[int] = set()
    twice: set[int] = set()
    layer = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for node in layer:
            kind = type(node)
            type_format = formats[kind]
            if type_format is None:
                raise NotPackable(node, "is of a foreign class")
            has_bytearray |= kind is bytearray
            inner = [part for part in type_format.parts(node) if type(part) not in SCALARS]
            if not inner and not type_format.mutable:
                continue
            if id(node) in once:
                if type_format.mutable:
                    raise NotPackable(node, "is reached twice (shared, or a cycle)")
                # A shared immutable value is searched twice, so that mutable values inside it are
                # reached twice, too; a third search would find nothing more.
                if id(node) in twice:
                    continue
                twice.add(id(node))
            once.add(id(node))
            below += inner
        if not below:
            return has_bytearray
        layer = below
    raise NotPackable(layer[0], f"is nested deeper than {_DEPTH} levels")
