"""Findings: the errors, warnings and notes of a verification.

Invariant: a finding names a key, a cell or a journal entry, never a value: reports are pasted into
tickets.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from bytewax_redis_state.errors import DecodeError

__all__ = ["KEPT_PER_KIND", "Finding", "Findings", "Severity"]

KEPT_PER_KIND = 20
"""How many findings of one kind are kept; further ones are only counted."""

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    :arg severity: ``error``: a start of the flow would refuse, or would go on with wrong state.
        ``warning``: a person should look at it. ``note``: nothing is wrong.
    :arg what: One line that names the thing, and says what is the matter with it.
    :arg hint: The next step of the reader.
    """

    severity: Severity
    what: str
    hint: str


class Findings:
    """Collect findings: of each kind the first ones are kept, and all are counted."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._counts: Counter[tuple[str, Severity]] = Counter()

    def say(self, severity: Severity, what: str, hint: str, kind: str = "") -> None:
        """Add a finding.

        :arg severity: As a :class:`Finding` has it.
        :arg what: One line that names the thing, and says what is the matter with it.
        :arg hint: The next step of the reader.
        :arg kind: Names, in the plural, the findings that this one is counted with. Leave it empty
            only where a flow can have no more than a few such findings.
        """
        if kind:
            self._counts[kind, severity] += 1
            # A damaged flow can have a finding for each of a million keys. They must not fill the
            # memory of the machine that looks for the damage.
            if self._counts[kind, severity] > KEPT_PER_KIND:
                return
        self._kept.append(Finding(severity, what, hint))

    def say_damaged(self, name: str, error: DecodeError) -> None:
        """Add an error about a value that can't be read.

        :arg name: Names the value.
        :arg error: The error that a reader of the value would raise.
        """
        hint = error.hint or "restore it from a backup"
        self.say("error", f"{name} is damaged: {error.message}", hint, kind="damaged values")

    def listed(self) -> list[Finding]:
        """List the findings that were kept, and one summary for each kind that has more.

        :returns: The kept findings in the order in which they were added, then the summaries.
        """
        return self._kept + [
            # The severity of the kind: a summary of notes must not make a sound flow unsound.
            Finding(severity, f"{count - KEPT_PER_KIND:,} more {kind}", "see the first ones above")
            for (kind, severity), count in self._counts.items()
            if count > KEPT_PER_KIND
        ]

    def __bool__(self) -> bool:
        return bool(self._kept)
