"""The sums that a run has left in Redis: a run whose end was not drained is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from benchmarks.flows import Load, Tally
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.server.client import connect

_CHUNK = 1000
_FLOW, _STEP = "sums", "sum"


def _values(url: str, keys: FlowKeys) -> Iterator[int]:
    codec = Codec().bind(namespace=keys.namespace, flow_id=keys.flow_id, step=_STEP)
    with connect(RedisConfig(url=url).patient(timedelta(seconds=30))) as client:
        found = client.scan_iter(match=keys.state_pattern, count=_CHUNK)
        while chunk := list(islice(found, _CHUNK)):
            for key, value in zip(chunk, client.mget(chunk), strict=True):
                step, _, state_key = keys.parse_state(key) or ("", 0, "")
                if step == _STEP:
                    yield codec.decode(state_key, value)


def require_stored_sums(url: str, namespace: str, load: Load) -> None:
    """Require that the running sums in Redis hold every item that went in so far, once.

    :raises WrongResultError: If they don't.
    """
    found = sum(_values(url, FlowKeys(namespace, _FLOW)))
    Tally().require("sums in Redis", found, load.events)
