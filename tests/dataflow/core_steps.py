"""The way to a core step of a flow, through the operators that it stands in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bytewax.dataflow import Dataflow

from bytewax_redis_state.dataflow.steps import kind_of


def core_path(flow: Dataflow) -> tuple[Any, ...]:
    """Give the operators around a flow's first core step, outermost first, and the step."""
    return next(_paths(flow.substeps, ()))


def _paths(steps: Iterable[Any], above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for step in steps:
        if kind_of(step) == "keyed":
            yield (*above, step)
        else:
            yield from _paths(step.substeps, (*above, step))
