"""Estimates of how long a resume takes: with Bytewax alone, and with the state in Redis.

They are right about the order of magnitude, on a machine like that of docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bytewax_redis_state.stock.inventory import PartitionCounts

__all__ = [
    "REDIS_SECONDS",
    "REDIS_SECONDS_PER_KEY",
    "ROWS_PER_PAGE",
    "STOCK_SECONDS_PER_ROW_AND_PAGE",
    "redis_resume_seconds",
    "stock_resume_seconds",
]

# Measured with Bytewax 0.21.1 and one partition: 100k keys 7.5 s, 200k 28 s, 400k 124 s. Bytewax
# reads pages of keys, and walks through all rows for each page.
ROWS_PER_PAGE = 1000
STOCK_SECONDS_PER_ROW_AND_PAGE = 0.75e-6
# From docs/benchmarks.md, start of the program to first new item: 100k keys 0.5 s, 1M keys 2.7 s.
REDIS_SECONDS = 0.3
REDIS_SECONDS_PER_KEY = 2.4e-6


def stock_resume_seconds(partitions: Sequence[PartitionCounts], workers: int) -> float:
    """Estimate how long Bytewax reads its recovery directory before it goes on.

    :arg partitions: They are read side by side, as far as there are workers.
    :arg workers: Number of workers of the whole cluster.
    :returns: Seconds.
    """
    each = [
        math.ceil(part.keys / ROWS_PER_PAGE) * part.rows * STOCK_SECONDS_PER_ROW_AND_PAGE
        for part in partitions
    ]
    return max(*each, sum(each) / max(workers, 1), 0.0)


def redis_resume_seconds(keys: int) -> float:
    """Estimate how long a flow with its state in Redis takes from its start to its first new item.

    :arg keys: Number of state keys.
    :returns: Seconds.
    """
    return REDIS_SECONDS + keys * REDIS_SECONDS_PER_KEY
