"""A Redis Cluster: primaries that share the slots, each with replicas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import ClusterDownError

from bytewax_redis_state.chaos.network.ports import SHADOW, free_ports
from bytewax_redis_state.chaos.servers.node import HOST, ServerNode, wait_until
from bytewax_redis_state.chaos.servers.server_group import PERSISTENT, ServerGroup, announced_ports
from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.keys import SLOTS, slot_of

__all__ = ["ClusterGroup"]

_BUS = SHADOW
"""The distance from a node's port to the port of its bus, which Redis fixes."""


class ClusterGroup(ServerGroup):
    """A group whose primaries share the slots.

    :arg binary: The server's program.
    :arg folder: Of the group's own.
    :arg primaries: How many, at least three.
    :arg replicas: Of each primary.
    :arg node_timeout: Milliseconds until a silent node counts as failed.
    :arg behind_proxy: Each node announces a listener; its bus has none.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 1,
        node_timeout: int = 1000,
        behind_proxy: bool = False,
    ) -> None:
        self._primaries = primaries
        ports = free_ports(primaries * (1 + replicas))
        told = announced_ports(ports, behind_proxy)
        self.nodes = [
            _node(binary, folder / f"node-{n}", *pair, node_timeout)
            for n, pair in enumerate(zip(ports, told, strict=True))
        ]

    @property
    def url(self) -> str:
        """The URL with the first nodes."""
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
        for node in self.nodes:
            _cluster(self.nodes[0], "MEET", HOST, node.announced, node.port + _BUS)
        wait_until(self._all_met, "all nodes know each other")
        for number, node in enumerate(replicas):
            _cluster(node, "REPLICATE", self.id_of(primaries[number % self._primaries]))
        self.wait_recovered()
        return self

    def _all_met(self) -> bool:
        return all(
            int(_cluster(node, "INFO")["cluster_known_nodes"]) == len(self.nodes)
            and b"handshake" not in _nodes_text(node)
            for node in self.nodes
        )

    def wait_recovered(self) -> None:
        """Wait until all living nodes agree which of them serves which slots.

        A failover before that may undo a move of slots: the new primary may not know of it. And a
        primary ignores a replica's request to take over while it does not know that replica.
        """
        wait_until(self._is_whole, "the cluster is whole")

    def _is_whole(self) -> bool:
        living = [node for node in self.nodes if node.alive]
        followers = sum(node.follows for node in living)
        views = set(map(_view, living))
        return self._works() and followers == len(living) - self._primaries and len(views) == 1

    def _works(self) -> bool:
        return all(
            _cluster(node, "INFO")["cluster_state"] == "ok" for node in self.nodes if node.alive
        )

    # -- roles ----------------------------------------------------------------------------------

    @staticmethod
    def id_of(node: ServerNode) -> str:
        """Give the ID of a node within the cluster."""
        return str(_text(node.client.execute_command("CLUSTER", "MYID")))

    def primary_of(self, key: bytes) -> ServerNode:
        """Give the node that serves a key, as the living nodes see it."""
        return self.primary_of_slot(slot_of(key))

    def primary_of_slot(self, slot: int) -> ServerNode:
        """Give the node that serves a slot."""
        for node in self.nodes:
            if not node.alive:
                continue
            with suppress(redis.RedisError):
                for low, high, primary, *_ in node.client.execute_command("CLUSTER", "SLOTS"):
                    if low <= slot <= high:
                        return self._at(primary[1])
        raise ClusterDownError(f"no node serves slot {slot}")

    # -- failovers and moves ------------------------------------------------------------------

    def wait_failed_over(
        self, before: ServerNode, key: bytes, seconds: float = BOUND_SECONDS
    ) -> ServerNode:
        """Wait until another node than before serves a key, and the cluster works."""
        wait_until(
            lambda: self.primary_of(key) is not before and self._works(),
            f"another primary for {key!r}",
            seconds,
        )
        return self.primary_of(key)

    def fail_over(self, primary: ServerNode) -> None:
        """Order a failover to a primary's first replica."""
        _cluster(self.replicas_of(primary)[0], "FAILOVER")

    def rejoin(self, node: ServerNode) -> None:
        """Start a node that was killed; the others tell it its role."""
        node.start()

    def set_back(self, key: bytes, meanwhile: Callable[[], object]) -> None:
        """Set the primary of a key back to what it holds now; its replicas with it.

        :arg meanwhile: Is called between now and the kill: what is written in it is lost.
        """
        primary = self.primary_of(key)
        replicas = self.replicas_of(primary)
        kept = primary.folder.with_name(f"{primary.folder.name}-kept")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(primary.folder / "appendonlydir", kept)
        meanwhile()
        for node in (*replicas, primary):
            node.kill()
        shutil.rmtree(primary.folder / "appendonlydir")
        kept.rename(primary.folder / "appendonlydir")
        for node in (primary, *replicas):
            node.start()
        self.wait_recovered()

    def move_slot(self, slot: int, target: ServerNode) -> int:
        """Move a slot with its keys to another primary, which serves it meanwhile.

        :returns: Number of keys that moved.
        """
        if self.primary_of_slot(slot) is target:
            return 0
        self.begin_move(slot, target)
        moved = 0
        while some := self.move_some(slot, target, 20):
            moved += some
        self.end_move(slot, target)
        return moved

    def begin_move(self, slot: int, target: ServerNode) -> None:
        """Begin to move a slot: both nodes serve it from now on, each the keys that it has."""
        source = self.primary_of_slot(slot)
        _cluster(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        _cluster(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_some(self, slot: int, target: ServerNode, count: int) -> int:
        """Move some keys of a slot between ``begin_move`` and ``end_move``."""
        source = self.primary_of_slot(slot)
        keys = _cluster(source, "GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: ServerNode) -> None:
        """End the move of a slot: the target alone serves it from now on.

        The target must know the newest epoch of the cluster before that. Otherwise it would yield
        to a newer claim that is still on its way, and drop the keys.
        """
        others = [node for node in self.nodes if node is not target and node.role == "master"]
        primaries = (target, *others)
        wait_until(
            lambda: len(set(map(_newest_epoch, primaries))) == 1,
            "all primaries know the newest epoch",
        )
        for node in primaries:
            _cluster(node, "SETSLOT", slot, "NODE", self.id_of(target))


def _node(binary: Path, folder: Path, port: int, announced: int, timeout: int) -> ServerNode:
    options = [
        *("--port", port, "--bind", HOST, "--cluster-enabled", "yes", *PERSISTENT),
        *("--cluster-node-timeout", timeout, "--cluster-config-file", "nodes.conf"),
    ]
    if announced != port:
        options += ["--cluster-announce-ip", HOST, "--cluster-announce-port", announced]
        options += ["--cluster-announce-bus-port", port + _BUS]
    return ServerNode(binary, folder, port, options, announced)


def _cluster(node: ServerNode, *command: Any) -> Any:
    answer = node.client.execute_command("CLUSTER", *command)
    if command[0] != "INFO":
        return answer
    if isinstance(answer, dict):
        return {_text(key): _text(value) for key, value in answer.items()}
    return dict(line.split(":", 1) for line in _text(answer).split("\r\n") if ":" in line)


def _newest_epoch(node: ServerNode) -> str:
    return str(_cluster(node, "INFO")["cluster_current_epoch"])


def _view(node: ServerNode) -> str:
    """Give the slots, primaries and replicas as a node sees them, in a form that compares."""
    ranges = node.client.execute_command("CLUSTER", "SLOTS")
    found = [
        (low, high, primary[1], sorted(replica[1] for replica in replicas))
        for low, high, primary, *replicas in ranges
    ]
    return str(sorted(found))


def _nodes_text(node: ServerNode) -> bytes:
    with redis.Redis(host=HOST, port=node.port, protocol=2) as raw:
        raw.response_callbacks.clear()
        text: Any = raw.execute_command("CLUSTER NODES")
    return text if isinstance(text, bytes) else str(text).encode()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
