"""The slots of a Redis Cluster: which node serves which key, and one SCAN over all nodes.

Invariant: a table is the answer of one node, with the corrections since then: whoever sends a
command by it and is redirected moves the slot.
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
    """Give the key that decides to which node a command goes; its other keys are in the same slot.

    :arg command: Its name and arguments, as redis-py takes them.
    :returns: The key; ``None`` if any node can answer.
    """
    words = str(command[0]).upper().split(" ")
    if words[0] in _KEYLESS:
        return None
    if words[0] in _SCRIPTS:
        return _as_bytes(command[3]) if int(command[2]) else None
    at = 2 if words[0] in _TWO_WORDS and len(words) == 1 else 1
    return _as_bytes(command[at])


def slot_of_command(command: Sequence[Any]) -> int | None:
    """Give the slot of a command; ``None`` if any node can answer."""
    key = key_of(command)
    return None if key is None else slot_of(key)


def _as_bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()


class SlotTable:
    """Which primary serves which slot.

    :arg answer: The answer to ``CLUSTER SLOTS``.
    :arg asked: The node that answered; it may not know its own host name.
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
        """Give the node that serves a slot.

        :arg slot: ``None`` for any node; it is the same one each time.
        :raises ConnectionError: If no node does.
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
        """Give the node at which a SCAN over all nodes continues, and the cursor there.

        :arg cursor: 0, or the result of :meth:`join_cursor`.
        :raises ConnectionError: If the nodes have changed: the cursor is invalid then.
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

        :arg host: The node that has answered.
        :arg inner: The cursor in its answer.
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
