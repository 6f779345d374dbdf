"""The slots of a Redis Cluster: which node serves which key, and one SCAN over all nodes.

Invariant: a table is what one node said, with the corrections that came since; who follows it
and is told otherwise moves the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's, on purpose

from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.keys import SLOTS, slot_of

__all__ = ["SlotTable", "key_of", "slot_of_command"]

_KEYLESS = frozenset(
    {
        *("ACL", "ASKING", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "ECHO", "FLUSHALL"),
        *("FLUSHDB", "INFO", "LASTSAVE", "PING", "ROLE", "SCAN", "SCRIPT", "SELECT", "TIME"),
        *("WAIT", "WAITAOF"),
    }
)
_TWO_WORDS = frozenset({"XINFO", "MEMORY", "OBJECT"})
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_SHAPES = 1 << 16


def key_of(command: Sequence[Any]) -> bytes | None:
    """Tell the key that decides where a command goes; its other keys share the slot.

    :arg command: Its name and arguments, as redis-py takes them.
    :returns: The key, ``None`` where any node will do.
    """
    words = str(command[0]).upper().split(" ")
    if words[0] in _KEYLESS:
        return None
    if words[0] in _SCRIPTS:
        return _as_bytes(command[3]) if int(command[2]) else None
    at = 2 if words[0] in _TWO_WORDS and len(words) == 1 else 1
    return _as_bytes(command[at])


def slot_of_command(command: Sequence[Any]) -> int | None:
    """Tell the slot of a command, ``None`` where any node will do."""
    key = key_of(command)
    return None if key is None else slot_of(key)


def _as_bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()


class SlotTable:
    """Which primary serves which slot.

    :arg answer: What ``CLUSTER SLOTS`` said, as it came.
    :arg asked: Who said it; a node need not know its own name.
    """

    def __init__(self, answer: Sequence[Any], asked: Host) -> None:
        self._of_slot: list[Host | None] = [None] * SLOTS
        for low, high, primary, *_ in answer:
            host = _host(primary, asked)
            self._of_slot[int(low) : int(high) + 1] = [host] * (int(high) + 1 - int(low))
        self._note_nodes()

    def _note_nodes(self) -> None:
        self.nodes: tuple[Host, ...] = tuple(sorted({h for h in self._of_slot if h is not None}))
        shape = ",".join(map(str, self.nodes)).encode()
        self._shape = crc32(shape) % _SHAPES

    @property
    def is_whole(self) -> bool:
        """Whether every slot is served."""
        return None not in self._of_slot

    def node_of(self, slot: int | None) -> Host:
        """Tell who serves a slot.

        :arg slot: ``None`` for any node; it is the same one each time.
        :raises ConnectionError: If nobody does.
        """
        host = self.nodes[0] if slot is None else self._of_slot[slot]
        if host is None:
            raise ConnectionError(f"no node of the cluster serves slot {slot}")
        return host

    def move(self, slot: int, host: Host) -> None:
        """Note that another node serves a slot."""
        self._of_slot[slot] = host
        if host not in self.nodes:
            self._note_nodes()

    def split_cursor(self, cursor: int) -> tuple[Host, int]:
        """Tell which node a SCAN over all nodes goes on with, and the cursor there.

        :arg cursor: 0, or what :meth:`join_cursor` gave.
        :raises ConnectionError: If the nodes are others by now: cursors are worth nothing then.
        """
        if cursor == 0:
            return self.nodes[0], 0
        rest, shape = divmod(cursor, _SHAPES)
        if shape != self._shape:
            raise ConnectionError("the nodes of the cluster changed while keys were listed")
        inner, place = divmod(rest, len(self.nodes))
        return self.nodes[place], inner

    def join_cursor(self, host: Host, inner: int) -> int:
        """Make the cursor of a SCAN over all nodes.

        :arg host: Which node has answered.
        :arg inner: The cursor that it gave.
        :returns: 0 at the end of the last node.
        """
        place = self.nodes.index(host)
        if inner == 0:
            place += 1
        if place == len(self.nodes):
            return 0
        return (inner * len(self.nodes) + place) * _SHAPES + self._shape


def _host(node: Sequence[Any], asked: Host) -> Host:
    name = node[0].decode() if isinstance(node[0], bytes) else (node[0] or "")
    return Host(asked.name if name in ("", "?") else name, int(node[1]))
