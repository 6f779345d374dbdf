"""The client and the probe on a Redis in a container."""

from __future__ import annotations

import pytest

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.probe import probe, require_fit

pytestmark = pytest.mark.container


def test_a_redis_in_a_container_is_fit(container_redis_url: str) -> None:
    client = connect(RedisConfig(url=container_redis_url))
    client.set("greeting", b"\xff\x00")

    assert client.get("greeting") == b"\xff\x00"
    assert all("append-only" in warning for warning in require_fit(probe(client)))
    client.close()
