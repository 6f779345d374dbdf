"""The input_limiter stays ahead of the flow, also through reads of its place that fail."""

from __future__ import annotations

import redis

from bytewax_redis_state.chaos.input_limiter import InputLimiter


def test_it_rises_with_the_flow_and_no_further(tmp_path, eventually):
    place, asked = 0, 0

    def position() -> int:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise redis.ConnectionError("struck, too")
        return place

    input_limiter = InputLimiter(tmp_path / "limit", 10_000, position)
    assert input_limiter.limit == 10_000
    input_limiter.start()
    asked = 0
    eventually(lambda: asked > 3)
    assert input_limiter.limit == 10_000, "2,000 ahead of a flow that has read nothing is enough"
    place = 9_000
    eventually(lambda: input_limiter.limit > 11_000)
    before = asked
    eventually(lambda: asked > before + 3)
    assert input_limiter.limit <= 11_000 + 500
    assert input_limiter.stop() == input_limiter.limit
