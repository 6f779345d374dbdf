"""The example flow ``clicks_per_minute``: its settings, and the results of a run.

A run writes closed windows to a folder of JSON lines, and keeps running totals in keyed state. The
offsets of its source, also in keyed state, tell how much of the stream it has read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.state_scan import scan_values
from bytewax_redis_state.server.client import Client, address_of
from bytewax_redis_state.server.translation import translated

__all__ = [
    "FLOW_ID",
    "ClickLoad",
    "Windows",
    "events_read",
    "flow_file",
    "read_totals",
    "read_windows",
]

FLOW_ID = "clicks_per_minute"
Windows = dict[tuple[str, int], frozenset[int]]
"""Page and window to the counts that it was closed with; more than one count is an error."""

_FILE = f"{FLOW_ID}.py"
_SOURCE, _TOTAL = "clicks", "total"
_PARTS = 4
_SHARDS = 64
_EVENTS_PER_PAGE = 40
_STREAM_SECONDS = 300  # of event time: each page closes several windows on the way
_BATCHES = 100  # of each source partition


def flow_file() -> Path:
    """Find the file of the flow: in the installed package, or in a checkout.

    :returns: The file.
    :raises ConfigError: If it is in neither place.
    """
    here = Path(__file__).resolve()
    places = (here.parent / "flow" / _FILE, here.parents[3] / "examples" / "dataflows" / _FILE)
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"{_FILE}, the flow that demo runs, is not installed", "install bytewax-redis-state again"
    )


@dataclass(frozen=True)
class ClickLoad:
    """A stream of clicks on one page for every 40 clicks; the same for the same number of events.

    :arg events: Clicks in the stream.
    :arg least_seconds: How long reading it takes at least; 0 for no limit of speed.
    """

    events: int
    least_seconds: float = 0.0

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.events // (_EVENTS_PER_PAGE * _PARTS) * _PARTS

    def environment(self, out: Path) -> dict[str, str]:
        """Make the settings of the flow.

        :arg out: Folder for the closed windows.
        :returns: Environment variables.
        """
        return {
            "CLICKS_EVENTS": str(self.events),
            "CLICKS_PAGES": str(self.pages),
            "CLICKS_RATE": str(self.events / _STREAM_SECONDS),
            "CLICKS_BATCH": str(self.events // (_PARTS * _BATCHES)),
            "CLICKS_PAUSE": str(self.least_seconds / _BATCHES),
            "CLICKS_OUT": str(out),
        }


def read_windows(out: Path) -> Windows:
    """Read the closed windows of all runs that wrote to a folder.

    :arg out: Folder of JSON lines; a line that a kill cut short is left out.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for path in out.glob("*.jsonl"):
        whole_lines, _, _ = path.read_text().rpartition("\n")
        for line in whole_lines.splitlines():
            record = json.loads(line)
            if "window" in record:
                counts = found.setdefault((record["page"], record["window"]), set())
                counts.add(record["clicks"])
    return {window: frozenset(counts) for window, counts in found.items()}


def read_totals(client: Client, keys: FlowKeys) -> dict[str, int]:
    """Read the running total of each page from keyed state.

    :raises DecodeError: If one can't be decoded.
    """
    with translated(address_of(client)):
        states = scan_values(client, keys)
        found = {state_key: value for step, state_key, value in states if step == _TOTAL}
    return _decoded(keys, _TOTAL, found)


def events_read(client: Client, keys: FlowKeys) -> int:
    """Tell how many events a flow had read at its last checkpoint.

    :returns: Sum over the source's partitions; 0 before the first checkpoint.
    """
    parts = [str(part) for part in range(_PARTS)]
    with translated(address_of(client)), client.pipeline(transaction=False) as pipe:
        for part in parts:
            pipe.get(keys.state(_SOURCE, shard_of(part, _SHARDS), part))
        values: list[bytes | None] = pipe.execute()
    found = {part: value for part, value in zip(parts, values, strict=True) if value is not None}
    offsets: dict[str, int] = _decoded(keys, _SOURCE, found)
    # Partition p reads clicks p, p + 4, …; its offset is the number of the next one.
    return sum((offset - int(part)) // _PARTS for part, offset in offsets.items())


def _decoded(keys: FlowKeys, step: str, found: Mapping[str, bytes]) -> dict[str, Any]:
    codec = Codec(allow_pickle=False)
    bound = codec.bind(namespace=keys.namespace, flow_id=keys.flow_id, step=step)
    return {state_key: bound.decode(state_key, value) for state_key, value in found.items()}
