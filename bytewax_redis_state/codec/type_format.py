"""The format of a type: how its values become the data of a msgpack extension.

:mod:`.extension_types` has the formats of built-in types, :mod:`.user_classes` those of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bytewax_redis_state.errors import DecodeError

__all__ = [
    "NotPackable",
    "Pack",
    "TypeFormat",
    "Unpack",
    "no_parts",
    "read_list",
    "read_map",
    "wrong_type",
]

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


def wrong_type(what: str, expected: str, found: object) -> DecodeError:
    """Make the error about a value inside an extension that is of another type than was written.

    :arg what: The value whose data it is, with its article.
    :arg expected: What every writer puts there, with its article.
    :arg found: The value that is there; only its type is looked at.
    """
    return DecodeError(
        f"the data of {what} holds a value of type {type(found).__name__}, not {expected}",
        "the value is damaged or forged; restore it from a copy",
    )


def read_list(data: bytes, unpack: Unpack, what: str) -> list[Any]:
    """Unpack a list, and nothing that only behaves like one.

    :arg data: One packed value.
    :arg unpack: Unpacks it.
    :arg what: The value whose data it is, with its article, for the error.
    :raises DecodeError: If it is of another type.
    """
    values = unpack(data)
    if type(values) is not list:
        raise wrong_type(what, "a list", values)
    return values


def read_map(data: bytes, unpack: Unpack, what: str) -> dict[Any, Any]:
    """Unpack a dict, and nothing that only behaves like one; arguments as :func:`read_list`.

    :raises DecodeError: If it is of another type.
    """
    values = unpack(data)
    if type(values) is not dict:
        raise wrong_type(what, "a dict", values)
    return values
