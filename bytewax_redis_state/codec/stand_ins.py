"""Stand-ins: what is read in the place of a user's classes where a value is only to be checked.

Invariant: no class of the flow is looked for, and no module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bytewax_redis_state.codec.type_format import Unpack, read_list, read_map
from bytewax_redis_state.codec.user_classes import (
    DATACLASSES,
    ENUM,
    NAMED_ENUM,
    NAMEDTUPLE,
    names_of,
)

__all__ = ["StandInClasses"]


class _StandIn:
    """Takes the place of an instance, and can be a key of a dict."""

    def __init__(self, *_values: object) -> None:
        pass


class StandInClasses:
    """Read the fields of users' classes, and give a stand-in for each instance."""

    def __init__(self) -> None:
        self.readers: Mapping[int, Callable[[bytes, Unpack], Any]] = {
            NAMED_ENUM: lambda data, _: _after_name(data, NAMED_ENUM) and _StandIn(),
            ENUM: lambda data, unpack: _StandIn(
                read_list(_after_name(data, ENUM), unpack, "an Enum member")
            ),
            NAMEDTUPLE: lambda data, unpack: _StandIn(
                read_list(_after_name(data, NAMEDTUPLE), unpack, "a namedtuple")
            ),
            **dict.fromkeys(DATACLASSES, _read_fields),
        }

    def find(self, _module_name: str, _qualname: str) -> Any:
        """Give a stand-in for a class."""
        return _StandIn


def _read_fields(data: bytes, unpack: Unpack) -> _StandIn:
    return _StandIn(read_map(_after_name(data, 0), unpack, "a dataclass"))


def _after_name(data: bytes, _code: int) -> bytes:
    end = 1 + data[0]
    names_of(data[1:end])
    return data[end:]
