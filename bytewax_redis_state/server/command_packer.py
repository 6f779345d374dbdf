"""Pack commands with hiredis: redis-py looks at each argument in Python, which is slow for a fold.

Invariant: the bytes are those that redis-py would send.
"""

from __future__ import annotations

from typing import Any

import hiredis
from redis.exceptions import DataError

__all__ = ["CommandPacker"]

_BUFFERS = (bytearray, memoryview)


class CommandPacker:
    """Packs commands for the connections of a client."""

    def pack(self, *command: Any) -> list[bytes]:
        """Pack a command.

        :arg command: Its name, which may hold a subcommand after a space, and its arguments.
        :returns: The bytes, as a list of one.
        :raises DataError: If an argument is neither bytes, text nor a number.
        """
        name = command[0]
        words = name.encode().split() if isinstance(name, str) else name.split()
        rest = command[1:]
        try:
            return [hiredis.pack_command((*words, *rest))]
        except TypeError:
            plain = (bytes(arg) if isinstance(arg, _BUFFERS) else arg for arg in rest)
            try:
                return [hiredis.pack_command((*words, *plain))]
            except TypeError as error:
                raise DataError(str(error)) from error
