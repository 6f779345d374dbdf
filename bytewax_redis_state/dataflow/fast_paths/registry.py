"""The fast paths that there are: kinds of shards for operators whose logic is known.

A core ``stateful_batch`` step is recognised by the operators that it stands in. Invariant: a fast
path puts out per key, and writes down, what Bytewax's own logics would; state written by one can
be read by the other. Where that can't be had there is none.

A new one is a subclass of :class:`~.shard.Shard` and a recogniser, entered in ``_RECOGNISERS``.
"""

from __future__ import annotations

from collections.abc import Sequence

from bytewax.dataflow import Operator

from bytewax_redis_state.dataflow.fast_paths.fast_path import FastPath, Recogniser
from bytewax_redis_state.dataflow.fast_paths.folds import recognise_fold
from bytewax_redis_state.dataflow.fast_paths.joins import recognise_join
from bytewax_redis_state.dataflow.fast_paths.maps import recognise_map
from bytewax_redis_state.dataflow.fast_paths.windows.window_shard import recognise_window

__all__ = ["FastPath", "fast_path"]

_RECOGNISERS: tuple[Recogniser, ...] = (
    recognise_map,
    recognise_fold,
    recognise_join,
    recognise_window,
)


def fast_path(path: Sequence[Operator]) -> FastPath | None:
    """Find the fast path of a core ``stateful_batch`` step.

    :arg path: The operators that it stands in, outermost first, and the step itself.
    :returns: ``None`` where it has none.
    """
    found = (recognise(path) for recognise in _RECOGNISERS)
    return next((fast for fast in found if fast is not None), None)
