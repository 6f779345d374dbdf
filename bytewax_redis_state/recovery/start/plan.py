"""The plan of a start: how the flow's steps and partitions fit what Redis holds of the flow.

Invariant: planning writes nothing. Whatever doesn't fit is an error here, before a key is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Protocol

from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.errors import ConfigError, FormatError, StepMissingError
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, StepEntry

__all__ = ["FlowStep", "StartPlan", "plan_start"]

_MILLISECOND = timedelta(milliseconds=1)


class FlowStep(Protocol):
    """What a plan needs to know of a step that bears state."""

    @property
    def name(self) -> str:
        """Short name that the step would get by itself."""

    @property
    def step_id(self) -> str:
        """Full ID in the user's flow."""

    @property
    def kind(self) -> str:
        """``keyed``, ``source`` or ``sink``."""

    @property
    def operator(self) -> str:
        """Name of Bytewax's operator that the user called."""

    @property
    def operator_id(self) -> str:
        """Full ID of that operator."""


@dataclass(frozen=True)
class StartPlan:
    """What a start will make of a flow.

    :arg steps: Every step of the new generation by its short name.
    :arg new: Short names that Redis does not know yet.
    :arg dropped: Short names whose state will be deleted.
    :arg parts: Partitions that each source and sink lists now.
    :arg gone: ``(short name, partition)`` once listed and not listed now.
    :arg drop_partitions: Those of ``gone`` whose state will be deleted.
    :arg retention: Short name of each step whose idle keys end, to how long they are kept, in
        milliseconds.
    :arg allowance: How long Redis keeps a key beyond its deadline, in milliseconds of downtime.
    """

    steps: Mapping[str, StepEntry]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    gone: tuple[tuple[str, str], ...]
    drop_partitions: frozenset[tuple[str, str]]
    retention: Mapping[str, int]
    allowance: int

    @property
    def names(self) -> dict[str, str]:
        """Full step ID to short name."""
        return {entry.step_id: name for name, entry in self.steps.items()}


def plan_start(
    manifest: Manifest,
    steps: Sequence[FlowStep],
    parts: Mapping[str, Iterable[str]],
    settings: RecoverySettings,
    lifetimes: Mapping[str, timedelta] = MappingProxyType({}),
) -> StartPlan:
    """Fit a flow to what Redis holds of it.

    :arg manifest: As Redis has it.
    :arg steps: Steps of the flow that bear state.
    :arg parts: Natural short name of each source and sink to the partitions it lists.
    :arg settings: Drops and renames are heeded.
    :arg lifetimes: Full ID of each step whose idle keys end, to how long they are kept.
    :returns: The plan.
    :raises FormatError: If a newer version wrote the flow, or the number of shards differs.
    :raises StepMissingError: If a step with state is neither in the flow, dropped nor renamed.
    :raises ConfigError: If a drop or a rename names what isn't there.
    """
    _require_format(manifest, settings)
    known = dict(manifest.steps)
    taken, new = _name_steps(known, steps, _renames(known, steps, settings))
    gone_steps = [name for name in known if name not in taken]
    dropped = _drops(gone_steps, known, steps, settings)
    listed = {
        name: tuple(parts.get(step.name, ()))
        for name, step in taken.items()
        if step.kind != "keyed"
    }
    gone_parts = tuple(
        (name, part)
        for name, before in manifest.parts.items()
        if name in listed
        for part in before
        if part not in listed[name]
    )
    return StartPlan(
        steps={
            name: StepEntry(step.step_id, step.kind, step.operator, step.operator_id)
            for name, step in taken.items()
        },
        new=tuple(new),
        dropped=dropped,
        parts=listed,
        gone=gone_parts,
        drop_partitions=_partition_drops(gone_parts, settings),
        retention={
            name: lifetimes[step.step_id] // _MILLISECOND
            for name, step in taken.items()
            if step.step_id in lifetimes
        },
        allowance=settings.downtime_allowance // _MILLISECOND,
    )


def _require_format(manifest: Manifest, settings: RecoverySettings) -> None:
    if manifest.format != FORMAT:
        raise FormatError(
            f"the flow in Redis has format {manifest.format}, this version reads {FORMAT}",
            "upgrade bytewax-redis-state"
            if manifest.format > FORMAT
            else "a development version wrote it: start the flow with another --namespace",
        )
    if manifest.shards != settings.shards:
        raise FormatError(
            f"the flow in Redis has {manifest.shards} shards, not {settings.shards}",
            f"run it with {manifest.shards} shards: their number is fixed for a flow's life",
        )


def _strip(name: str, known: Mapping[str, StepEntry]) -> str | None:
    """Find the short name that a user means by a name with or without the flow's ID."""
    if name in known:
        return name
    _, _, rest = name.partition(".")
    if rest in known:
        return rest
    return next((short for short, entry in known.items() if entry.step_id == name), None)


def _renames(
    known: Mapping[str, StepEntry], steps: Sequence[FlowStep], settings: RecoverySettings
) -> dict[str, str]:
    """Give the full ID of a step of the flow to the short name whose state it takes over."""
    renames: dict[str, str] = {}
    for old, new in settings.rename_steps.items():
        short = _strip(old, known)
        target = next(
            (s for s in steps if new in (s.name, s.step_id) or new.partition(".")[2] == s.name),
            None,
        )
        if target is None:
            have = ", ".join(sorted(s.name for s in steps)) or "none"
            raise ConfigError(
                f"--rename-step {old}={new}: the flow has no step {new!r} with state",
                f"the flow's steps with state: {have}",
            )
        if short is None:
            if any(entry.step_id == target.step_id for entry in known.values()):
                continue  # renamed by an earlier start: the option may stay in the unit file
            have = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"--rename-step {old}={new}: Redis holds no state of a step {old!r}",
                f"steps with state in Redis: {have}",
            )
        if known[short].kind != target.kind:
            raise ConfigError(
                f"--rename-step {old}={new}: {old!r} is the state of a {_kind_text(known[short])}, "
                f"and {new!r} is a {_kind_text(target)}",
                f"delete the old state with --drop-step {short}",
            )
        renames[target.step_id] = short
    return renames


def _name_steps(
    known: Mapping[str, StepEntry], steps: Sequence[FlowStep], renames: Mapping[str, str]
) -> tuple[dict[str, FlowStep], list[str]]:
    """Find the state of each step.

    :arg known: Short names in Redis.
    :arg steps: Of the flow.
    :arg renames: Full ID of a step to the short name whose state the user gives to it.
    :returns: Short name to step, and the names that Redis does not know yet.
    """
    taken = {renames[step.step_id]: step for step in steps if step.step_id in renames}
    unnamed: list[FlowStep] = []
    for step in steps:
        if step.step_id in renames:
            continue
        name = _name_of(step, known, steps)
        if name is None or name in taken:
            unnamed.append(step)
        else:
            taken[name] = step
    new: list[str] = []
    for step in unnamed:
        name = _free_name(step.name, known, taken)
        taken[name] = step
        new.append(name)
    return taken, new


def _name_of(
    step: FlowStep, known: Mapping[str, StepEntry], steps: Sequence[FlowStep]
) -> str | None:
    """Find the short name in Redis whose state is a step's own: of the same operator in its place.

    Bytewax may change what an operator is made of, and so the full ID of the core step inside: then
    the operator's own ID counts, where it holds one such step.
    """
    alike = {name: entry for name, entry in known.items() if _called(entry) == _called(step)}
    for name, entry in alike.items():
        if entry.step_id == step.step_id:
            return name
    rivals = sum(_called(other) == _called(step) for other in steps)
    return next(iter(alike)) if len(alike) == rivals == 1 and step.operator_id else None


def _called(step: StepEntry | FlowStep) -> tuple[str, str, str]:
    return step.kind, step.operator, step.operator_id


def _free_name(name: str, *used: Mapping[str, object]) -> str:
    number, free = 1, name
    while any(free in names for names in used):
        number += 1
        free = f"{name}~{number}"
    return free


def _drops(
    gone: Sequence[str],
    known: Mapping[str, StepEntry],
    steps: Sequence[FlowStep],
    settings: RecoverySettings,
) -> tuple[str, ...]:
    wanted = {name: _strip(name, known) for name in settings.drop_steps}
    present = [name for name, short in wanted.items() if short is not None and short not in gone]
    if present:
        raise ConfigError(
            f"--drop-step {present[0]}: the flow still has this step",
            "remove the step from the flow, or leave the option out",
        )
    for name in gone:
        if name not in wanted.values():
            raise _missing(name, known[name], steps)
    return tuple(gone)


def _missing(name: str, entry: StepEntry, steps: Sequence[FlowStep]) -> StepMissingError:
    """Make the error for state of a step that the flow does not have."""
    other = next((step for step in steps if step.name == name and step.kind == entry.kind), None)
    if other is not None:
        return StepMissingError(
            f"Redis holds state of step {name!r}, which was {_described(entry)}, and the flow's "
            f"step of that name is now {_described(other)}",
            f"let it start without state, and delete the old one, with --drop-step {name}; or give "
            f"it that state with --rename-step {name}={name}",
        )
    have = ", ".join(sorted(step.name for step in steps)) or "none"
    return StepMissingError(
        f"Redis holds state of step {name!r}, which the flow no longer has (it has {have})",
        f"delete it with --drop-step {name}, or give it to another step with "
        f"--rename-step {name}=NEW",
    )


def _kind_text(step: StepEntry | FlowStep) -> str:
    return "keyed step" if step.kind == "keyed" else step.kind


def _described(step: StepEntry | FlowStep) -> str:
    if step.kind != "keyed":
        return f"a {step.kind} ({step.step_id})"
    return f"the operator {step.operator} ({step.operator_id})"


def _partition_drops(
    gone: Sequence[tuple[str, str]], settings: RecoverySettings
) -> frozenset[tuple[str, str]]:
    wanted = set()
    for text in settings.drop_partitions:
        step, colon, part = text.partition(":")
        if not colon or not step:
            raise ConfigError(
                f"--drop-partition {text!r} is not STEP:PARTITION",
                "name the step and, after a colon, the partition",
            )
        wanted.add((step, part))
    return frozenset(
        (step, part)
        for step, part in gone
        if any(part == p and step in (s, s.partition(".")[2]) for s, p in wanted)
    )
