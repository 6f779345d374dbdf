"""A fast path: how a step runs whose operator is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bytewax.dataflow import Operator

from bytewax_redis_state.dataflow.shards.routing import router
from bytewax_redis_state.dataflow.shards.shard import Shard

__all__ = ["FastPath", "Recogniser"]

Router = Callable[[int, int], Callable[[list[Any]], Iterable[Any]]]


@dataclass(frozen=True)
class FastPath:
    """How a step runs without a logic per key.

    :arg kind: The class of its shards, called as
        ``kind(step_id, logic, codec, lifetime, requests)``.
    :arg logic: What the shards run.
    :arg router: Makes the mapper that sends batches to the shards, as they want them.
    """

    kind: Callable[..., Shard]
    logic: Any
    router: Router = router


Recogniser = Callable[[Sequence[Operator]], FastPath | None]
"""From the operators around a core step, outermost first, and itself last, to its fast path."""
