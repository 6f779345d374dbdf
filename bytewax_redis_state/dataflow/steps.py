"""The state-bearing steps of a flow, and the short names that users and keys have for them.

A step bears state if the engine writes recovery rows for it: a core ``stateful_batch``, an
``input`` from a :class:`~bytewax.inputs.FixedPartitionedSource`, an ``output`` to a
:class:`~bytewax.outputs.FixedPartitionedSink`. Invariant: the same flow always gives the same
names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bytewax.dataflow import Dataflow, Operator, _CoreOperator
from bytewax.inputs import FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink

from bytewax_redis_state.errors import ConfigError

__all__ = [
    "StateStep",
    "engine_id_of",
    "is_stateless",
    "kind_of",
    "listed_partitions",
    "resolve_step",
    "short_names",
    "state_steps",
]


@dataclass(frozen=True)
class StateStep:
    """A state-bearing core step.

    :arg name: The shortest path of step names, without the flow ID, that holds no other such step.
    :arg step_id: Full ID of the core step in the user's flow.
    :arg engine_id: ID under which the engine writes its recovery rows after the rewrite.
    :arg kind: ``keyed``, ``source`` or ``sink``.
    :arg operator: Name of Bytewax's operator that the user called, such as ``count_final``.
    :arg operator_id: Full ID of that operator. What lies between it and the core step is Bytewax's
        own, and may be another in the next version.
    """

    name: str
    step_id: str
    engine_id: str
    kind: str
    operator: str = ""
    operator_id: str = ""


def kind_of(step: Operator) -> str | None:
    """Tell which kind of state a step bears; the engine decides in the same way.

    :arg step: Any step of the tree.
    :returns: ``keyed``, ``source`` or ``sink``; ``None`` for a step without state.
    """
    if not isinstance(step, _CoreOperator):
        return None
    fields: Any = step
    core_name = type(step).__qualname__
    if core_name == "stateful_batch":
        return "keyed"
    if core_name == "input" and isinstance(fields.source, FixedPartitionedSource):
        return "source"
    if core_name == "output" and isinstance(fields.sink, FixedPartitionedSink):
        return "sink"
    return None


def engine_id_of(step_id: str, kind: str) -> str:
    """Tell under which ID the engine writes a step's rows after the rewrite."""
    return f"{step_id}.shards" if kind == "keyed" else step_id


def _bearers(
    substeps: Iterable[Operator], called: Operator | None = None
) -> Iterator[tuple[Operator, str, Operator]]:
    """Give the core steps with state, their kinds, and the operators of Bytewax's around them.

    :arg substeps: Of an operator.
    :arg called: The outermost operator of Bytewax's around them, below any operator of the user's.
    """
    for step in substeps:
        kind = kind_of(step)
        outermost = (called or step) if _is_own(step) else None
        if kind is not None:
            yield step, kind, outermost or step
        elif not isinstance(step, _CoreOperator):
            yield from _bearers(step.substeps, outermost)


def _is_own(step: Operator) -> bool:
    """Tell whether an operator is one of Bytewax's."""
    return type(step).__module__.partition(".")[0] == "bytewax"


def _prefixes(step_id: str) -> list[str]:
    """Give the paths of step names above a step, shortest first, without the flow ID."""
    parts = step_id.split(".")[1:]
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def short_names(step_ids: Iterable[str]) -> dict[str, str]:
    """Find the shortest path of step names that holds no other state-bearing step.

    :arg step_ids: Full IDs of all state-bearing core steps.
    :returns: Each ID to its name, without the flow ID.
    """
    listed = list(step_ids)
    holds = Counter(prefix for step_id in listed for prefix in _prefixes(step_id))
    return {
        step_id: next((path for path in _prefixes(step_id) if holds[path] == 1), step_id)
        for step_id in listed
    }


def state_steps(flow: Dataflow) -> tuple[StateStep, ...]:
    """List the state-bearing steps of a flow as the user wrote it.

    :arg flow: Not yet rewritten.
    :returns: In the order of the step tree.
    """
    found = [*_bearers(flow.substeps)]
    names = short_names(step.step_id for step, _kind, _called in found)
    return tuple(
        StateStep(
            name=names[step.step_id],
            step_id=step.step_id,
            engine_id=engine_id_of(step.step_id, kind),
            kind=kind,
            operator=type(called).__qualname__,
            operator_id=called.step_id,
        )
        for step, kind, called in found
    )


def is_stateless(flow: Dataflow) -> bool:
    """Tell whether no step of a flow bears state, so that the flow runs without recovery."""
    return next(_bearers(flow.substeps), None) is None


def _is_under(step: StateStep, path: str) -> bool:
    flow_id = step.step_id.split(".", 1)[0]
    inside = f"{step.step_id}."
    return inside.startswith((f"{flow_id}.{path}.", f"{path}.")) and path != flow_id


def resolve_step(name: str, steps: Sequence[StateStep]) -> StateStep:
    """Find the step that a user means.

    :arg name: As the user wrote it, with or without the flow ID, or the full core ID.
    :arg steps: Of the flow, from :func:`state_steps`.
    :returns: The step of that name.
    :raises ConfigError: If there is no such step, or several of that name.
    """
    for step in steps:
        if name in (step.name, step.step_id):
            return step
    under = [step for step in steps if _is_under(step, name)]
    if len(under) == 1:
        return under[0]
    offered = under or steps
    listed = ", ".join(step.name for step in offered) or "none at all"
    problem = f"the step {name!r} holds {len(under)} steps" if under else f"no step {name!r}"
    raise ConfigError(f"{problem} with state", f"the steps with state are: {listed}")


def listed_partitions(flow: Dataflow) -> dict[str, list[str]]:
    """Ask each source and sink with state for its partitions, once.

    :arg flow: Not yet rewritten.
    :returns: Short step name to the partitions that ``list_parts`` returned in this process.
    :raises ConfigError: If the name of a partition is no string.
    """
    connectors = {
        step.step_id: _connector(step, kind) for step, kind, _called in _bearers(flow.substeps)
    }
    listed = {
        step: list(connectors[step.step_id].list_parts())
        for step in state_steps(flow)
        if step.kind != "keyed"
    }
    for step, parts in listed.items():
        _require_names(step, parts)
    return {step.name: parts for step, parts in listed.items()}


def _require_names(step: StateStep, parts: Sequence[Any]) -> None:
    for part in parts:
        if not isinstance(part, str):
            raise ConfigError(
                f"the step {step.step_id!r} lists a partition {part!r} of type "
                f"{type(part).__name__}, and the name of a partition is a str",
                f"return a list of str from list_parts of this {step.kind}",
            )


def _connector(step: Any, kind: str) -> Any:
    return {"source": "source", "sink": "sink"}.get(kind) and getattr(step, kind)
