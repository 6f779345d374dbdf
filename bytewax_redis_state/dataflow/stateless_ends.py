"""The streams that end without state, to which the rewrite adds a step with state.

With recovery on, the engine's run ends, and its epochs commit, when the steps with state are done.
Items on their way to a stateless output are then dropped: a stateless flow of 50 items put out 2.
So each stream that feeds such an output also feeds a keyed step that never gets an item. A side
branch at each source would not be enough: each hop takes the engine a step, and with 60
``redistribute`` hops on two workers 0 of 40 items came out.

Invariant: a run waits for every output that it would wait for without recovery, and a commit covers
only items that have reached their output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bytewax.dataflow import Dataflow, Operator, _CoreOperator

from bytewax_redis_state.dataflow.steps import kind_of

__all__ = ["stateless_ends"]


def _core_steps(substeps: Iterable[Operator]) -> Iterator[Operator]:
    for step in substeps:
        if isinstance(step, _CoreOperator):
            yield step
        else:
            yield from _core_steps(step.substeps)


def _streams(step: Any, port_names: Iterable[str]) -> set[str]:
    return {stream for name in port_names for stream in getattr(step, name).stream_ids.values()}


def stateless_ends(flow: Dataflow) -> dict[str, str]:
    """Find the streams that end without a step with state.

    :arg flow: Not yet rewritten.
    :returns: ID of an output or inspect step, to the ID of the stream that gets the side branch.
    """
    ends: dict[str, str] = {}
    watched: set[str] = set()
    leading_on: set[str] = set()
    cores = list(_core_steps(flow.substeps))
    for step in cores:
        if kind_of(step) in ("keyed", "sink"):
            watched |= _streams(step, step.ups_names)
    for step in reversed(cores):
        core_name = type(step).__qualname__
        ups, downs = _streams(step, step.ups_names), _streams(step, step.dwn_names)
        if core_name == "output":
            ends.update((step.step_id, stream) for stream in ups - watched)
            watched |= ups
        elif core_name == "inspect_debug" and not downs & (watched | leading_on):
            ends.update((step.step_id, stream) for stream in downs)
        elif not downs & (watched | leading_on) and kind_of(step) != "keyed":
            continue
        leading_on |= ups
    return ends
