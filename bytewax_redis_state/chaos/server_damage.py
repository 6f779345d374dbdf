"""Damage to a whole server: it is emptied, goes back, or gets an older dump.

The other servers of a group keep what they have. A cell, a journal and the manifest may be on three
servers, so each one that goes back must be noticed, also one that does not hold the manifest.
"""

from __future__ import annotations

import shutil
import time
from functools import partial

from bytewax_redis_state.chaos.damage import WENT_BACK, Damage
from bytewax_redis_state.chaos.schedule import PlannedFault
from bytewax_redis_state.chaos.servers.cluster_group import ClusterGroup
from bytewax_redis_state.chaos.system import SystemUnderTest

__all__ = ["empty_node", "restore_dump", "set_node_back"]

_NOT_THE_MANIFESTS = 0.7  # share of the struck nodes that do not hold the manifest
_CELLS = 16  # shards whose cells are looked at, to find another node than the manifest's


def restore_dump(system: SystemUnderTest, planned: PlannedFault) -> Damage:
    """Restore an older dump of Redis, under the flow or while it is down."""
    dump = system.server.dump()
    time.sleep(planned.seconds)
    down = planned.size < 0.5
    if down:
        system.execution.kill_groups()
        if planned.offset < 0.5:  # else the next start finds scratch files of a newer time
            shutil.rmtree(system.scratch / "0", ignore_errors=True)
    system.server.restore_dump(dump)
    when = "while the flow was down" if down else "while the flow ran"
    done = f"restored a dump that was {planned.seconds:.1f} s old, {when}"
    return Damage(done, WENT_BACK)


def _other_key(system: SystemUnderTest, planned: PlannedFault) -> bytes:
    """Give a key of the node to strike; mostly of one that does not hold the manifest."""
    cells = [system.keys.applied("balance", shard) for shard in range(_CELLS)]
    manifests = system.group.primary_of(system.keys.manifest)
    others = [key for key in cells if system.group.primary_of(key) is not manifests]
    if planned.size < _NOT_THE_MANIFESTS and others:
        return others[planned.target % len(others)]
    return system.keys.manifest


def _where(key: bytes, system: SystemUnderTest) -> str:
    return "which holds the manifest" if key == system.keys.manifest else "without the manifest"


def empty_node(system: SystemUnderTest, planned: PlannedFault) -> Damage:
    """Empty one node of a cluster, while the flow runs or is down."""
    key = _other_key(system, planned)
    down = planned.offset < 0.5
    if down:
        system.execution.kill_groups()
    system.group.primary_of(key).client.flushall()
    when = "while the flow was down" if down else "while the flow ran"
    return Damage(f"emptied a node {_where(key, system)}, {when}", WENT_BACK)


def set_node_back(system: SystemUnderTest, planned: PlannedFault) -> Damage:
    """Set one node of a cluster back by some seconds; the others keep all."""
    group = system.group
    assert isinstance(group, ClusterGroup)
    key = _other_key(system, planned)
    group.set_back(key, partial(time.sleep, planned.seconds))
    return Damage(f"set back a node {_where(key, system)} by {planned.seconds} s", WENT_BACK)
