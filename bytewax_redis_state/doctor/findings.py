"""What a verification finds: findings, one by one and of one kind together.

Invariant: a finding names the key or the cell, never a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bytewax_redis_state.errors import DecodeError
from bytewax_redis_state.recovery.records.manifest import Manifest

__all__ = ["Finding", "Findings", "Severity", "Verification"]

_ALIKE = 20  # findings of one kind that are told one by one

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    :arg severity: ``error``: a start would refuse, or be wrong. ``warning``: look at it. ``note``:
        as it may be.
    :arg what: In one line.
    :arg hint: What to do.
    """

    severity: Severity
    what: str
    hint: str


@dataclass
class Verification:
    """What a flow is made of, and what is wrong with it.

    :arg flow_id: Of the flow.
    :arg namespace: It is in.
    :arg manifest: As Redis holds it, ``None`` where there is none.
    :arg keys: Short step name to number of state keys.
    :arg entries: Journal entries that no checkpoint has folded yet.
    :arg signed: Key ID to number of values that are signed with it, those in journals included;
        empty for none.
    :arg encrypted: The same of encryption.
    :arg findings: In the order in which they were found.
    """

    flow_id: str
    namespace: str
    manifest: Manifest | None = None
    keys: dict[str, int] = field(default_factory=dict)
    entries: int = 0
    signed: Mapping[str, int] = field(default_factory=dict)
    encrypted: Mapping[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong; warnings and notes are not."""
        return all(finding.severity != "error" for finding in self.findings)


class Findings:
    """Take findings; of many of one kind the first ones are told, and how many more there are.

    :arg found: Gets them.
    """

    def __init__(self, found: Verification) -> None:
        self._found = found
        self._alike: Counter[str] = Counter()

    def say(self, severity: Severity, what: str, hint: str, kind: str = "") -> None:
        """Note a finding.

        :arg severity: As a :class:`Finding` has it.
        :arg what: In one line.
        :arg hint: What to do.
        :arg kind: What it counts as; empty where there is one of it.
        """
        kind = kind or what
        self._alike[kind] += 1
        if self._alike[kind] <= _ALIKE:
            self._found.findings.append(Finding(severity, what, hint))

    def damaged(self, name: str, fault: DecodeError) -> None:
        """Note a value that can't be right.

        :arg name: Where it is.
        :arg fault: What a reader would say of it.
        """
        hint = fault.hint or "restore it from a backup"
        self.say("error", f"{name} is damaged: {fault.message}", hint, kind="damaged values")

    def end(self) -> None:
        """Note how many were not told."""
        for kind, count in self._alike.items():
            if count > _ALIKE:
                more = f"and {count - _ALIKE:,} more of this kind: {kind}"
                self._found.findings.append(Finding("error", more, "see those above"))
