"""Fast paths: kinds of shards for operators whose logic is known.

A core ``stateful_batch`` step is recognised by the operators that it stands in. Invariant: a fast
path puts out per key, and writes down, what Bytewax's own logics would; state written by one can
be read by the other. Where that can't be had there is none.

A new one is a subclass of :class:`~.shard.Shard` and a recogniser, entered in ``_RECOGNISERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bytewax.dataflow import Operator

from bytewax_redis_state.dataflow.route import router
from bytewax_redis_state.dataflow.shard import Shard

__all__ = ["FastPath", "fast_path"]

Router = Callable[[int, int], Callable[[list[Any]], Iterable[Any]]]


@dataclass(frozen=True)
class FastPath:
    """How a step runs without a logic per key.

    :arg kind: The class of its shards, called as
        ``kind(step_id, logic, codec, lifetime, roll)``.
    :arg logic: What the shards run.
    :arg router: Makes the mapper that sends batches to the shards, as they want them.
    """

    kind: Callable[..., Shard]
    logic: Any
    router: Router = router


Recogniser = Callable[[Sequence[Operator]], FastPath | None]
"""From the operators around a core step, outermost first, and itself last, to its fast path."""

_RECOGNISERS: tuple[Recogniser, ...] = ()


def fast_path(path: Sequence[Operator]) -> FastPath | None:
    """Find the fast path of a core ``stateful_batch`` step.

    :arg path: The operators that it stands in, outermost first, and the step itself.
    :returns: ``None`` where it has none.
    """
    found = (recognise(path) for recognise in _RECOGNISERS)
    return next((fast for fast in found if fast is not None), None)
