"""The sums that a run has left in Redis: a run whose end was not drained is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from benchmarks.flows import Load, Tally
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.state_scan import scan_values
from bytewax_redis_state.server.client import connect

_FLOW, _STEP = "sums", "sum"


def _values(url: str, keys: FlowKeys) -> Iterator[int]:
    codec = Codec().bind(namespace=keys.namespace, flow_id=keys.flow_id, step=_STEP)
    with connect(RedisConfig(url=url).patient(timedelta(seconds=30))) as client:
        for step, state_key, value in scan_values(client, keys):
            if step == _STEP:
                yield codec.decode(state_key, value)


def require_stored_sums(url: str, namespace: str, load: Load) -> None:
    """Require that the running sums in Redis hold every item that went in so far, once.

    :raises WrongResultError: If they don't.
    """
    found = sum(_values(url, FlowKeys(namespace, _FLOW)))
    Tally().require("sums in Redis", found, load.events)
