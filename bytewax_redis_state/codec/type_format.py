"""The format of a type: how its values become the data of a msgpack extension.

:mod:`.extension_types` has the formats of built-in types, :mod:`.user_classes` those of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

__all__ = ["NotPackable", "Pack", "TypeFormat", "Unpack", "no_parts"]

Pack = Callable[[Any], bytes]
Unpack = Callable[[bytes], Any]


class NotPackable(Exception):  # noqa: N818 - not an error: it sends the value to the next codec
    """Raised where msgpack can't hold a value exactly.

    :arg node: The part of the value that msgpack can't hold.
    :arg reason: Why, as the end of a sentence about it.
    """

    def __init__(self, node: object, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


class TypeFormat(NamedTuple):
    """The way in which values of one type are written.

    :arg code: Extension type; 0 where msgpack knows the type itself.
    :arg write: Makes the extension's data of a value and a packer for the values inside.
    :arg parts: Gives the values inside; none for a scalar.
    :arg mutable: Whether values can change, so that two references to one value must stay two
        references to one.
    """

    code: int
    write: Callable[[Any, Pack], bytes]
    parts: Callable[[Any], Iterable[Any]]
    mutable: bool = False


def no_parts(_: object) -> tuple[()]:
    """Give no values: a scalar has none inside."""
    return ()
