"""A Redis Cluster: primaries that share the slots, each with replicas."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from bytewax_redis_state.keys import SLOTS, slot_of
from tests.ports import free_ports

from .node import ServerNode, wait_until

__all__ = ["ClusterGroup"]

_HIGHEST = 21_999  # a node's bus listens 10,000 higher, which must be no port of clients either


class ClusterGroup:
    """Started by :meth:`start`; everything is gone after :meth:`end`.

    :arg binary: The server's program.
    :arg folder: Of the group's own.
    :arg primaries: How many, at least three.
    :arg replicas: Of each primary.
    :arg node_timeout: Milliseconds until a silent node counts as failed.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout: int = 1000,
    ) -> None:
        self._primaries = primaries
        count = primaries * (1 + replicas)
        self.nodes = [
            self._node(binary, folder / f"node-{n}", port, node_timeout)
            for n, port in enumerate(_ports(count))
        ]

    @staticmethod
    def _node(binary: Path, folder: Path, port: int, node_timeout: int) -> ServerNode:
        return ServerNode(
            binary,
            folder,
            port,
            [
                *("--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes"),
                *("--cluster-node-timeout", node_timeout, "--cluster-config-file", "nodes.conf"),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--repl-diskless-sync-delay", "0"),
            ],
        )

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes[:3])}"

    def start(self) -> ClusterGroup:
        """Start all nodes, make them a cluster, and wait until it works."""
        for node in self.nodes:
            node.start()
        primaries, replicas = self.nodes[: self._primaries], self.nodes[self._primaries :]
        for number, node in enumerate(primaries):
            low, high = (SLOTS * n // self._primaries for n in (number, number + 1))
            _cluster(node, "ADDSLOTS", *range(low, high))
        for number, node in enumerate(self.nodes, 1):
            _cluster(node, "SET-CONFIG-EPOCH", number)
            _cluster(self.nodes[0], "MEET", "127.0.0.1", node.port)
        wait_until(self._all_met, "all nodes know each other")
        for number, node in enumerate(replicas):
            _cluster(node, "REPLICATE", self.id_of(primaries[number % self._primaries]))
        self.wait_whole()
        return self

    def end(self) -> None:
        for node in self.nodes:
            node.kill()

    def _all_met(self) -> bool:
        return all(
            int(_cluster(node, "INFO")["cluster_known_nodes"]) == len(self.nodes)
            and b"handshake" not in _nodes_text(node)
            for node in self.nodes
        )

    def wait_whole(self, seconds: float = 40) -> None:
        """Wait until all slots are served, and every replica that lives follows its primary."""
        wait_until(self._is_whole, "the cluster is whole", seconds)

    def _is_whole(self) -> bool:
        living = [node for node in self.nodes if node.alive]
        return (
            all(
                _cluster(node, "INFO")["cluster_state"] == "ok"
                and (node.role == "master" or node.info().get("master_link_status") == "up")
                for node in living
            )
            and len({self.primary_of_slot(slot).port for slot in range(0, SLOTS, 512)}) > 0
        )

    # -- who is who -----------------------------------------------------------------------------

    @staticmethod
    def id_of(node: ServerNode) -> str:
        return str(_text(node.client.execute_command("CLUSTER", "MYID")))

    def primary_of(self, key: bytes) -> ServerNode:
        """The node that serves a key, as the nodes that live see it."""
        return self.primary_of_slot(slot_of(key))

    def primary_of_slot(self, slot: int) -> ServerNode:
        for node in self.nodes:
            if not node.alive:
                continue
            with suppress(redis.RedisError):
                for low, high, primary, *_ in node.client.execute_command("CLUSTER", "SLOTS"):
                    if low <= slot <= high:
                        return self._at(int(primary[1]))
        raise AssertionError(f"nobody serves slot {slot}")

    def _at(self, port: int) -> ServerNode:
        return next(node for node in self.nodes if node.port == port)

    def replicas_of(self, primary: ServerNode) -> list[ServerNode]:
        """The living replicas of a primary."""
        return [
            node
            for node in self.nodes
            if node.alive and node.role == "slave" and node.info()["master_port"] == primary.port
        ]

    # -- what happens to it -----------------------------------------------------------------------

    def wait_failed_over(self, before: ServerNode, slot: int, seconds: float = 40) -> ServerNode:
        """Wait until another node than before serves a slot, and the cluster works."""
        wait_until(
            lambda: (
                self.primary_of_slot(slot) is not before
                and all(
                    _cluster(node, "INFO")["cluster_state"] == "ok"
                    for node in self.nodes
                    if node.alive
                )
            ),
            f"another primary for slot {slot}",
            seconds,
        )
        return self.primary_of_slot(slot)

    def fail_over(self, primary: ServerNode) -> ServerNode:
        """Order a failover, as an operator does, and wait for it."""
        replica = self.replicas_of(primary)[0]
        _cluster(replica, "FAILOVER")
        wait_until(lambda: replica.role == "master", "the replica is the primary")
        return replica

    def move_slots(self, slots: Iterable[int], target: ServerNode) -> int:
        """Move slots with their keys to another primary while all are served.

        :returns: Number of keys that moved.
        """
        return sum(self.move_slot(slot, target) for slot in slots)

    def move_slot(self, slot: int, target: ServerNode) -> int:
        if self.primary_of_slot(slot) is target:
            return 0
        self.begin_move(slot, target)
        moved = 0
        while some := self.move_some(slot, target, 20):
            moved += some
        self.end_move(slot, target)
        return moved

    def begin_move(self, slot: int, target: ServerNode) -> None:
        """From here on both nodes serve the slot, each the keys that it has."""
        source = self.primary_of_slot(slot)
        _cluster(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        _cluster(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_some(self, slot: int, target: ServerNode, count: int) -> int:
        """Move some keys of a slot between ``begin_move`` and ``end_move``."""
        source = self.primary_of_slot(slot)
        keys = _cluster(source, "GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
            )
        return len(keys)

    def end_move(self, slot: int, target: ServerNode) -> None:
        source = self.primary_of_slot(slot)
        for node in (target, source):
            _cluster(node, "SETSLOT", slot, "NODE", self.id_of(target))


def _ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        found.update(port for port in free_ports(count) if port <= _HIGHEST)
    return sorted(found)[:count]


def _cluster(node: ServerNode, *command: Any) -> Any:
    answer = node.client.execute_command("CLUSTER", *command)
    if command[0] != "INFO":
        return answer
    if isinstance(answer, dict):
        return {_text(key): _text(value) for key, value in answer.items()}
    return dict(line.split(":", 1) for line in _text(answer).split("\r\n") if ":" in line)


def _nodes_text(node: ServerNode) -> bytes:
    with redis.Redis(host="127.0.0.1", port=node.port, protocol=2) as raw:
        raw.response_callbacks.clear()
        text = raw.execute_command("CLUSTER NODES")
    return text if isinstance(text, bytes) else str(text).encode()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
