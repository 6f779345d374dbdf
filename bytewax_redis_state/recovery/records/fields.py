"""The fields of a record: a hash of the flow in Redis, each field checked when it is read.

Invariant: whatever another program has written into a field is either read as what it says, or
refused by an error that names key, field and value.
"""

from __future__ import annotations

from collections.abc import Mapping

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.token import Token
from bytewax_redis_state.recovery.records.way_out import way_out

__all__ = ["MOST", "Fields", "damaged", "whole_number"]

MOST = 10**15 - 1
"""The largest number that a record holds: scripts calculate with it exactly, and check the same."""

_SHOWN = 80


def whole_number(value: bytes, *, signed: bool = False) -> int:
    """Read a number as scripts write it: decimal digits, and nothing else.

    :arg signed: Whether a minus sign may stand before it.
    :raises ValueError: If it is no such number.
    """
    digits = value[1:] if signed and value.startswith(b"-") else value
    if not digits.isdigit() or int(digits[:16]) > MOST:
        raise ValueError(f"{value[:_SHOWN]!r} is no whole number up to {MOST}")
    return int(value)


def damaged(keys: FlowKeys, key: bytes, field: str, value: bytes, expected: str) -> StateLostError:
    """Say that a field does not hold what this package writes.

    :arg keys: Of the flow.
    :arg key: That holds the field.
    :arg field: Its name.
    :arg value: What it holds.
    :arg expected: What it should hold, in words.
    """
    shown = value[:_SHOWN].decode(errors="backslashreplace")
    return StateLostError(
        f"the field {field!r} of {key.decode()!r} is {shown!r}, not {expected}; another program "
        "may have written here",
        way_out(keys),
    )


class Fields:
    """A record of the flow, as HGETALL gives it.

    :arg keys: Of the flow.
    :arg key: Of the record.
    :arg found: Its fields.
    """

    def __init__(self, keys: FlowKeys, key: bytes, found: Mapping[bytes, bytes]) -> None:
        self._keys = keys
        self._key = key
        self.found = found

    def raw(self, field: str) -> bytes:
        """Give a field as it is.

        :raises StateLostError: If it is missing.
        """
        value = self.found.get(field.encode())
        if value is None:
            raise StateLostError(
                f"the field {field!r} of {self._key.decode()!r} is missing", way_out(self._keys)
            )
        return value

    def number(self, field: str, *, signed: bool = False) -> int:
        """Read a whole number.

        :raises StateLostError: If it is missing or no whole number.
        """
        value = self.raw(field)
        try:
            return whole_number(value, signed=signed)
        except ValueError:
            raise damaged(self._keys, self._key, field, value, "a whole number") from None

    def token(self, field: str) -> Token:
        """Read a fencing token.

        :raises StateLostError: If it is missing or no token.
        """
        value = self.raw(field)
        try:
            return Token.parse(value)
        except ValueError:
            raise damaged(self._keys, self._key, field, value, "a generation") from None
