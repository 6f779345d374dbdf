"""A fast path: how a step runs if the logic of its operator is known."""

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
    """The way in which a step runs without a logic object per key.

    :arg kind: The class of its shards, called as
        ``kind(step_id, logic, codec, lifetime, requests)``.
    :arg logic: The second argument of ``kind``: an operator, a configuration or a builder.
    :arg router: Makes the mapper that sends batches to the shards, in the form that they take.
    """

    kind: Callable[..., Shard]
    logic: Any
    router: Router = router


Recogniser = Callable[[Sequence[Operator]], FastPath | None]
"""Finds the fast path of a core step, from the operators around it (outermost first) and itself."""
