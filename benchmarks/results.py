"""The results of a benchmark: runs, the figures made of them, and the file that keeps both.

Invariant: the file is written whole after each contest, so that an interrupted benchmark keeps its
results. The new result of a contest takes the place of its old one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """One measured run.

    :arg value: In the line's unit; ``None`` where it was given up because it took too long.
    :arg extra: Other measurements, such as the seconds of the whole process.
    """

    value: float | None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A number made of the runs, and its target.

    :arg of: The contender it speaks of.
    :arg text: Its unit or meaning, such as "× stock recovery".
    :arg value: ``None`` where a run that it needs was given up.
    :arg target: ``None`` where it has none.
    :arg at_most: Whether the target is a ceiling; else it is a floor.
    """

    of: str
    text: str
    value: float | None
    target: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` without a target or a value."""
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(frozen=True)
class ContestResult:
    """The result of one contest.

    :arg job: Letter of the job.
    :arg name: Of the contest, unique within the job.
    :arg title: The work, for people.
    :arg unit: Of the runs' values.
    :arg runs: Contender to its runs, in the order in which they were made.
    :arg figures: Made of them.
    :arg points: Contender to its properties for a plot, such as its number of keys.
    :arg notes: For the reader of the figures.
    :arg scale: Share of the full size.
    :arg started: When, as ISO 8601 in UTC.
    :arg load: The machine's one-minute load just before.
    """

    job: str
    name: str
    title: str
    unit: str
    runs: Mapping[str, list[Run]]
    figures: list[Figure]
    points: Mapping[str, Mapping[str, Any]]
    notes: list[str]
    scale: float
    started: str
    load: float

    def values(self, contender: str) -> list[float]:
        """Give a contender's values, without runs that were given up."""
        return [run.value for run in self.runs.get(contender, []) if run.value is not None]

    def median(self, contender: str) -> float | None:
        """Give the median of a contender's values; ``None`` without any."""
        values = self.values(contender)
        return statistics.median(values) if values else None

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ContestResult:
        """Read the plain data of ``asdict``."""
        runs = {name: [Run(**run) for run in runs] for name, runs in stored["runs"].items()}
        figures = [Figure(**figure) for figure in stored["figures"]]
        return cls(**{**stored, "runs": runs, "figures": figures})


@dataclass
class Results:
    """Results of contests from one or several invocations.

    :arg machine: Of the last invocation.
    :arg invocations: For each invocation: its time, its options, the load of the machine.
    :arg lines: The results, in the order of the jobs.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    invocations: list[dict[str, Any]] = field(default_factory=list)
    lines: list[ContestResult] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file.

        :raises ValueError: If it does not hold results of this format.
        """
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ValueError(f"{path} does not hold benchmark results of format {FORMAT}")
        lines = [ContestResult.from_dict(line) for line in stored["lines"]]
        return cls(stored["machine"], stored["invocations"], lines)

    def put(self, line: ContestResult) -> None:
        """Add a result, in the place of an older one of the same job and name."""
        for at, old in enumerate(self.lines):
            if (old.job, old.name) == (line.job, line.name):
                self.lines[at] = line
                return
        self.lines.append(line)
        self.lines.sort(key=lambda one: one.job)  # stable: a job's lines stay as they were measured

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"format": FORMAT, **asdict(self)}
        hidden = path.with_name(f".{path.name}.new")
        hidden.write_text(json.dumps(stored, indent=1) + "\n")
        hidden.replace(path)
