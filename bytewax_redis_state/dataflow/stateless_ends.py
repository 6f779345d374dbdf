"""The streams on which the rewrite hangs a step with state, so that no run ends early.

With recovery on, the engine's run ends, and its epochs commit, when the steps with state are done:
items on their way to a stateless output are then dropped. So each stream that feeds such an output
also feeds a keyed step that never gets an item. Invariant: what an output waits for without
recovery is waited for with it; a commit covers nothing that has not reached its output.
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
    :returns: ID of an output or inspect step, to the ID of the stream to watch behind it.
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
