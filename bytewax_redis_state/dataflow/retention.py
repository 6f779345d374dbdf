"""Retention: how long each keyed step keeps an idle key.

How long a window step needs a key is read from its windower and its clock. For any other keyed step
a mark in the flow, or an option, says it.

Invariant: a step has a retention only if its keys are known to be of no use later, or if the user
has given one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from bytewax.dataflow import Dataflow, Operator, SinglePort, Stream, _CoreOperator
from bytewax.operators.windowing import (
    EventClock,
    SessionWindower,
    SlidingWindower,
    SystemClock,
    TumblingWindower,
    window,
)

from bytewax_redis_state.dataflow.steps import StateStep, kind_of, resolve_step, state_steps
from bytewax_redis_state.errors import ConfigError

__all__ = ["lifetimes", "retain"]

_Stream = TypeVar("_Stream", bound="Stream[Any]")
_window: Any = window._op_cls  # type: ignore[attr-defined]
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST = timedelta(days=2_000_000)  # a deadline has to fit into an envelope's 48 bits


@dataclass(frozen=True)
class _RetentionMark(Operator):
    """A mark on a stream that holds the retention of the step that made it.

    It is an operator without substeps, so the engine ignores it, and a flow with it runs in plain
    Bytewax, too.
    """

    up: SinglePort
    marked: str
    lifetime: timedelta | None
    ups_names: ClassVar[list[str]] = ["up"]
    dwn_names: ClassVar[list[str]] = []


def retain(stream: _Stream, lifetime: timedelta | None) -> _Stream:
    """Set the retention of the step that made a stream: how long it keeps an idle key.

    Plain Bytewax ignores it. Downtime does not count: on resume a key has the time left that it had
    at the last committed epoch. A key that comes back after its retention starts without state.

    :arg stream: Returned by a keyed operator: ``op.stateful_map(…)``, or ``.down`` of a window.
    :arg lifetime: How long, a millisecond or more; ``None`` for ever.
    :returns: The same stream.
    :raises ConfigError: If that operator has no step with state per key, or several; if it has
        another retention already; or if the lifetime is no timedelta of a millisecond or more.
    """
    _check(f"retain({stream.stream_id!r})", lifetime)
    scope = stream._scope
    made_by = next((s for s in scope.substeps if stream.stream_id in _made(s)), None)
    keyed = [] if made_by is None else list(_keyed([made_by]))
    if made_by is None or len(keyed) != 1:
        listed = ", ".join(keyed) or "none"
        raise ConfigError(
            f"retain({stream.stream_id!r}): the step that made this stream holds "
            f"{len(keyed)} steps with state per key ({listed})",
            "give retain() the stream that a keyed operator returned, or use --retention STEP=TIME",
        )
    (step_id,) = keyed
    for other in _nodes(scope.substeps, _RetentionMark):
        if other.marked != step_id:
            continue
        if other.lifetime != lifetime:
            raise ConfigError(
                f"retain({stream.stream_id!r}, {lifetime!r}): the step {step_id!r} has the "
                f"retention {other.lifetime!r} already",
                "call retain() once for each step",
            )
        return stream
    mark_id = f"{made_by.step_id}_retain"
    scope.substeps.append(
        _RetentionMark(
            step_name=mark_id.rsplit(".", 1)[-1],
            step_id=mark_id,
            substeps=[],
            up=SinglePort(f"{mark_id}.up", stream.stream_id),
            marked=step_id,
            lifetime=lifetime,
        )
    )
    return stream


def lifetimes(
    flow: Dataflow, given: Mapping[str, timedelta | None], grace: timedelta
) -> dict[str, timedelta]:
    """Find how long each keyed step of a flow keeps an idle key.

    :arg flow: Not yet rewritten.
    :arg given: Step as the user names it, to its retention; ``None`` for ever. It overrides marks
        in the flow, and marks override the retention that a window step has by itself.
    :arg grace: Is added to the time for which a window step needs a key.
    :returns: Full ID of each keyed step that has a retention, to the retention.
    :raises ConfigError: If a given step does not exist, keeps no state per key, or is given twice;
        or if a lifetime is no timedelta of a millisecond or more.
    """
    found: dict[str, timedelta | None] = {}
    for node in _nodes(flow.substeps, _window):
        needed = _needed(node.clock, node.windower)
        for step_id in _keyed([node]):
            found[step_id] = None if needed is None else _sum(needed, grace)
    for mark in _nodes(flow.substeps, _RetentionMark):
        found[mark.marked] = mark.lifetime
    steps = state_steps(flow)
    names: dict[str, str] = {}
    for name, lifetime in given.items():
        step = _keyed_step(name, steps)
        if step.step_id in names:
            raise ConfigError(
                f"the retention of step {step.name!r} is given as {names[step.step_id]!r} and as "
                f"{name!r}",
                "give it once",
            )
        names[step.step_id] = name
        _check(f"the retention of step {name!r}", lifetime)
        found[step.step_id] = lifetime
    return {
        step_id: lifetime
        for step_id, lifetime in found.items()
        if lifetime is not None and lifetime < _LONGEST
    }


def _keyed_step(name: str, steps: tuple[StateStep, ...]) -> StateStep:
    keyed = [step for step in steps if step.kind == "keyed"]
    listed = ", ".join(step.name for step in keyed) or "none at all"
    hint = f"the steps with state per key are: {listed}"
    try:
        step = resolve_step(name, steps)
    except ConfigError as error:
        raise ConfigError(f"--retention {name}: {error.message}", hint) from None
    if step.kind != "keyed":
        raise ConfigError(
            f"--retention {name}: the step is a {step.kind}, which has no state per key", hint
        )
    return step


def _check(what: str, lifetime: timedelta | None) -> None:
    if lifetime is None or (isinstance(lifetime, timedelta) and lifetime >= _MILLISECOND):
        return
    raise ConfigError(
        f"{what} is {lifetime!r}",
        "give a timedelta of a millisecond or more, or None to keep keys for ever",
    )


def _needed(clock: Any, windower: Any) -> timedelta | None:
    """Tell how long a window step needs an idle key; ``None`` where that is not known."""
    if type(windower) is TumblingWindower:
        length = windower.length
    elif type(windower) is SlidingWindower:
        length = _sum(windower.length, windower.offset)
    elif type(windower) is SessionWindower:
        length = windower.gap
    else:
        return None
    if type(clock) is EventClock:
        return _sum(length, clock.wait_for_system_duration)
    return length if type(clock) is SystemClock else None


def _sum(left: timedelta, right: timedelta) -> timedelta:
    try:
        return left + right
    except OverflowError:
        return timedelta.max


def _keyed(steps: Iterable[Operator]) -> Iterator[str]:
    for step in steps:
        if kind_of(step) == "keyed":
            yield step.step_id
        elif not isinstance(step, _CoreOperator):
            yield from _keyed(step.substeps)


def _nodes(steps: Iterable[Operator], kind: type[Any]) -> Iterator[Any]:
    for step in steps:
        if type(step) is kind:
            yield step
        else:
            yield from _nodes(step.substeps, kind)


def _made(step: Any) -> set[str]:
    return {stream for name in step.dwn_names for stream in getattr(step, name).stream_ids.values()}
