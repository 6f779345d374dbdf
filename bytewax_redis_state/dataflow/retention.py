"""Retention: how long each keyed step keeps an idle key.

What a window needs a key for is read from the step tree: its windower and its clock. A marker in
the flow, or an option, says it for any other keyed step. Invariant: a step has a retention only
where it is known that its keys are of no use later, or where the user has said so.
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
    """A mark on a stream: for how long the step that made it keeps an idle key."""

    up: SinglePort
    marked: str
    lifetime: timedelta | None
    ups_names: ClassVar[list[str]] = ["up"]
    dwn_names: ClassVar[list[str]] = []


def retain(stream: _Stream, lifetime: timedelta | None) -> _Stream:
    """Say in the flow itself how long the step that made a stream keeps an idle key.

    Plain Bytewax ignores it. On resume the retention goes on from where it stood: downtime does not
    count. A key that comes back later is as one that was never there.

    :arg stream: What a keyed operator returned: ``op.stateful_map(…)``, or ``.down`` of a window.
    :arg lifetime: How long, a millisecond or more; ``None`` for ever.
    :returns: The same stream.
    :raises ConfigError: If that operator keeps no state per key or has several steps that do, if
        it has been said otherwise before, or the lifetime can't be.
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
            "give it what a keyed operator returned, or name the step with --retention",
        )
    (step_id,) = keyed
    for other in _nodes(scope.substeps, _RetentionMark):
        if other.marked != step_id:
            continue
        if other.lifetime != lifetime:
            raise ConfigError(
                f"retain({stream.stream_id!r}, {lifetime!r}): it is {other.lifetime!r} already",
                "say it once",
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
    :arg given: Step as the user names it, to how long; ``None`` for ever. Goes before marks in the
        flow, which go before what window steps have by themselves.
    :arg grace: What a window step adds to what its window needs.
    :returns: Full ID of each keyed step that has a retention, to that.
    :raises ConfigError: If a step is given that isn't there or keeps no state per key, if one is
        given twice, or a lifetime can't be.
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
        raise ConfigError(f"--retention {name}: it is a {step.kind}, no state key reaches it", hint)
    return step


def _check(what: str, lifetime: timedelta | None) -> None:
    if lifetime is None or (isinstance(lifetime, timedelta) and lifetime >= _MILLISECOND):
        return
    raise ConfigError(
        f"{what} is {lifetime!r}", "give a timedelta of a millisecond or more, or None for ever"
    )


def _needed(clock: Any, windower: Any) -> timedelta | None:
    """Tell for how long a window needs a key; ``None`` where it can't be told."""
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
