"""Reads the result of a flow: its state in Redis or in stock's recovery files, its lines in files.

The states of Bytewax's joins and windows become plain values here: the expected result knows
nothing of Bytewax.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from bytewax_redis_state.chaos.flow_result import FlowResult
from bytewax_redis_state.chaos.hostile_values import mark_of
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.dataflow.steps import short_names
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.state_scan import scan_values
from bytewax_redis_state.server.client import Client
from bytewax_redis_state.stock.directory import RecoveryDirectory

__all__ = ["read_result", "read_stock_result"]

_Found = Iterator[tuple[str, str, Any]]


def read_result(client: Client, keys: FlowKeys, out: Path) -> FlowResult:
    """Read the state of a flow from Redis, and its output.

    :arg client: Of the Redis that holds the flow.
    :arg keys: Of the flow.
    :arg out: Folder with the output of all its processes.
    """
    return FlowResult(_plain(_keyed_state(client, keys)), _lines(out))


def read_stock_result(store: Path, out: Path) -> FlowResult:
    """Read the state of a flow from stock's recovery files, and its output.

    :arg store: The files. Their pickles are loaded: the harness itself had them written.
    """
    return FlowResult(_plain(_stock_state(store)), _lines(out))


def _keyed_state(client: Client, keys: FlowKeys) -> _Found:
    codec = Codec()
    for step, key, value in scan_values(client, keys):
        bound = codec.bind(namespace=keys.namespace, flow_id=keys.flow_id, step=step)
        yield step, key, bound.decode(key, value)


def _stock_state(store: Path) -> _Found:
    """Give the states that a resume would load: each key's last row before the resume epoch."""
    with RecoveryDirectory(store) as stock:
        last: dict[tuple[str, str], tuple[int, bytes | None]] = {}
        for part in stock.partitions:
            for step, key, epoch, change in part.file.rows(
                "SELECT step_id, state_key, snap_epoch, ser_change FROM snaps"
            ):
                before = last.get((step, key), (0, None))
                if before[0] <= epoch < stock.resume_epoch:
                    last[step, key] = epoch, change
    names = short_names({step for step, _ in last})
    for (step, key), (_, change) in last.items():
        if change is not None:
            yield names[step], key, pickle.loads(change)


def _plain(found: _Found) -> dict[str, dict[str, Any]]:
    state: dict[str, dict[str, Any]] = defaultdict(dict)
    for step, key, value in found:
        state[step][key] = mark_of(value) if step == "hostile" else _plain_value(value)
    return dict(state)


def _plain_value(value: Any) -> Any:
    """Give the values in the state of a join or a window."""
    if hasattr(value, "seen"):
        return [list(side) for side in value.seen]
    if hasattr(value, "logic_states"):
        if value.logic_states or value.queue:
            return f"open windows {value.logic_states!r}, queue {value.queue!r}"
        return value.clock_state.watermark_base
    return value


def _lines(out: Path) -> Set[str]:
    """Read the lines of the output, without one that a kill cut short."""
    found: set[str] = set()
    for path in out.rglob("*.txt"):
        whole, _, _ = path.read_text().rpartition("\n")
        found.update(whole.splitlines())
    return found
