"""The engine's hash, on real worker threads; and the names that rely on it."""

from __future__ import annotations

from collections import Counter

import pytest

from bytewax_redis_state.dataflow.shards.shard_names import (
    shard_name,
    shard_of_name,
    worker_of,
)

from .engine import run_well

WORKERS = [2, 3, 5, 8]
KEYS = [
    *(str(number) for number in range(64)),
    *(shard_name(shard, 8) for shard in range(64)),
    *("", "ä", "数据", "a" * 7, "a" * 8, "a" * 9, "x" * 1_000),
]


@pytest.mark.parametrize("workers", WORKERS)
def test_worker_of_says_where_the_engine_sends_a_key(workers: int) -> None:
    calls = run_well("placed", workers=workers, keys=KEYS)
    worker_of_thread = {call[2]: call[1] for call in calls if call[0] == "worker"}
    assert len(worker_of_thread) == workers
    seen = {call[1]: worker_of_thread[call[2]] for call in calls if call[0] == "key"}
    assert seen == {key: worker_of(key, workers) for key in KEYS}


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 16, 61])
@pytest.mark.parametrize("shards", [1, 16, 64, 257])
def test_shard_names_spread_as_evenly_as_can_be(shards: int, workers: int) -> None:
    counts = Counter(worker_of(shard_name(shard, workers), workers) for shard in range(shards))
    loads = [counts[worker] for worker in range(workers)]
    assert max(loads) - min(loads) <= 1


def test_a_name_tells_its_shard() -> None:
    assert [shard_of_name(shard_name(shard, 3)) for shard in range(20)] == list(range(20))
