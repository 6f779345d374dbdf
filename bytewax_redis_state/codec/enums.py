"""Enum members in msgpack: written by name and value, found again by value, then by name.

A pickle finds a member by its value, so that a member whose name changed is still found. The value
is written where it is a scalar, or a tuple of scalars, and the class is not pickled by the names of
its members.

Invariant: without pickle, a lookup runs no method of the flow's classes. So nothing else is looked
up as a value, and ``_missing_`` is not asked.
"""

from __future__ import annotations

from typing import Any

from bytewax_redis_state.codec.extension_types import SCALARS
from bytewax_redis_state.codec.type_format import (
    NotPackable,
    Pack,
    TypeFormat,
    no_parts,
    wrong_type,
)
from bytewax_redis_state.errors import DecodeError

__all__ = ["ENUM", "NAMED_ENUM", "enum_format", "find_member", "member_named"]

NAMED_ENUM = 32
"""Extension type of a member by its bare name; it is only read."""
ENUM = 35
"""Extension type of a member: after the class, an array of its name and, if simple, its value."""

# The functions that make pickles hold a member's name, as Python's versions call them.
_BY_NAME = frozenset({"pickle_by_global_name", "pickle_by_enum_name", "_reduce_ex_by_name"})


def enum_format(cls: Any, name: bytes) -> TypeFormat:
    """Give the format of an Enum.

    :arg cls: The Enum.
    :arg name: Its name, with which the data begins.
    """
    by_name = getattr(cls.__reduce_ex__, "__name__", "") in _BY_NAME
    written: dict[str, bytes] = {}

    def write(member: Any, pack: Pack) -> bytes:
        data = written.get(member._name_)
        if data is None or cls._member_map_[member._name_] is not member:
            if cls._member_map_.get(member._name_) is not member:
                raise NotPackable(member, "is a combination of flags without a name")
            value = member._value_
            parts = [str(member._name_)]
            parts += [value] if _is_simple(value) and not by_name else []
            data = written[member._name_] = name + pack(parts)
        return data

    return TypeFormat(ENUM, write, no_parts)


def _is_simple(value: Any) -> bool:
    kind = type(value)
    return kind in SCALARS or (kind is tuple and SCALARS.issuperset(map(type, value)))


def find_member(cls: Any, parts: list[Any], *, ask_class: bool) -> Any:
    """Find a member as a pickle does, by its value, else by its name.

    :arg cls: The Enum as it is now.
    :arg parts: The member's name, and its value if that is known.
    :arg ask_class: Whether ``_missing_`` of the class may be asked.
    :raises DecodeError: If the Enum has no such member.
    """
    if not 1 <= len(parts) <= 2 or type(parts[0]) is not str:
        raise wrong_type("an Enum member", "a name and a value", parts)
    if len(parts) == 2 and _is_simple(parts[1]):
        member = cls._value2member_map_.get(parts[1])
        if member is not None:
            return member
        if ask_class:
            try:
                return cls(parts[1])
            except ValueError:
                pass  # so there is none of this value; a pickle would end here
    return member_named(cls, parts[0], *parts[1:])


def member_named(cls: Any, name: str, *value: object) -> Any:
    """Find a member by its name.

    :arg cls: The Enum as it is now.
    :arg name: The member's name.
    :arg value: Its value, for the error.
    :raises DecodeError: If the Enum has no such member.
    """
    member = cls._member_map_.get(name)
    if member is None:
        of_value = f" and none of value {value[0]!r}" if value and _is_simple(value[0]) else ""
        raise DecodeError(
            f"{cls.__module__}.{cls.__qualname__} has no member named {name!r}{of_value}",
            "give the class a member with the old name or the old value; where allow_pickle is "
            "True, its _missing_ is asked, too",
        )
    return member
