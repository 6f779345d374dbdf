"""The registry of fast paths: kinds of shards for operators whose logic is known.

A core ``stateful_batch`` step is recognised by the operators around it. Invariant: per key, a fast
path puts out the items that Bytewax's own logics would put out, and writes the same bytes, so that
state written by one can be read by the other. An operator for which that is impossible has none.

To add a fast path, write a subclass of :class:`~.shard.Shard` and a recogniser, and add the
recogniser to ``_RECOGNISERS``. The property tests in tests/dataflow/fast_paths compare its deltas
with those of :class:`~.logic_shard.ShardLogic`.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytewax.dataflow import Operator

from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath, Recogniser
from bytewax_redis_state.dataflow.fast_paths.folds import recognise_fold
from bytewax_redis_state.dataflow.fast_paths.joins import recognise_join
from bytewax_redis_state.dataflow.fast_paths.maps import recognise_map
from bytewax_redis_state.dataflow.fast_paths.windows.window_shard import recognise_window

__all__ = ["find_fast_path"]

# Operators are told apart by their classes, never by name: the names of steps are the user's.
_RECOGNISERS: tuple[Recogniser, ...] = (
    recognise_map,
    recognise_fold,
    recognise_join,
    recognise_window,
)


def find_fast_path(path: Sequence[Operator]) -> FastPath | None:
    """Find the fast path of a core ``stateful_batch`` step.

    :arg path: The operators around the step, outermost first, and the step itself.
    :returns: The fast path; ``None`` where the step has none.
    """
    found = (recognise(path) for recognise in _RECOGNISERS)
    return next((fast for fast in found if fast is not None), None)
