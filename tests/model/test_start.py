"""The order of a start is safe in every interleaving, and each rule is needed for that.

``python -m tests.model.test_start`` prints the table, with the counterexamples.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from . import start as s
from .search import Outcome, Scenario, explore

ALL = ("manifest", "cell", "partitions")

ONE = Scenario("one start, one partition, two epochs", epochs=2, new_epochs=2)
APART = Scenario("one start, two partitions", partitions=2)
TWO = Scenario("two starts", epochs=1, starts=("A", "B"))
LATE = Scenario("one start, one command that comes late", epochs=2, late=1)
TAIL = Scenario("one start, Redis loses its tail", epochs=2, loses_tail=ALL)
TAILS = Scenario("two starts, Redis loses its tail", epochs=0, starts=("A", "B"), loses_tail=ALL)
CELL = Scenario("one start, the cell's node loses its tail", loses_tail=("cell",))
JOURNAL = Scenario("one start, the journal's node loses its tail", loses_tail=("partitions",))
MANIFEST = Scenario("one start, the manifest's node loses its tail", loses_tail=("manifest",))
FORGOTTEN = Scenario(
    "two starts, Redis forgets the first",
    1,
    0,
    starts=("A", "B"),
    loses_tail=ALL,
    forgets_starts=True,
)
FORGOTTEN_AND_OLD = replace(
    FORGOTTEN, name="the same, while the one before them ships an epoch", epochs=1
)
SCENARIOS = (ONE, APART, TWO, LATE, TAIL, TAILS, CELL, JOURNAL, MANIFEST, FORGOTTEN)
LARGE = (FORGOTTEN_AND_OLD,)
LONG = (TAILS, FORGOTTEN_AND_OLD)
VERY_LONG = pytest.mark.long  # 700,000 states

_FENCED_LATER = (s.BUMP, s.AGAIN, s.READ, s.FENCE_ALONE, *s.ORDER[3:])
_DELETED_FIRST = (*s.ORDER[: s.ORDER.index(s.WRITE)], s.DELETE, s.WRITE, s.RESTORE)
_CELLS_FIRST = (s.CELL_EARLY, *(step for step in s.ORDER if step != s.CELL))
_BEFORE_CELLS = (s.BUMP, s.AGAIN, s.FENCE, s.CHECK)
_FOLDED_FIRST = (*_BEFORE_CELLS, s.FOLD, s.CELL, *s.ORDER[s.ORDER.index(s.SETTLE) :])
_FOLDED_AS_OLD = tuple(s.FOLD_AS_OLD if step == s.FOLD else step for step in _FOLDED_FIRST)
_NOT_READ_AGAIN = tuple(step for step in s.ORDER if step != s.AGAIN)

BROKEN = [
    ("progress is read where the partition is fenced", replace(ONE, order=_FENCED_LATER)),
    ("journals are deleted after the manifest is written", replace(TWO, order=_DELETED_FIRST)),
    ("the manifest is read again after the bump", replace(TWO, order=_NOT_READ_AGAIN)),
    ("cells are fenced after the bump", replace(TWO, order=_CELLS_FIRST)),
    ("cells are fenced before a fold", replace(JOURNAL, order=_FOLDED_AS_OLD)),
    ("a manifest is compared", TWO),
    ("an append asks for the fence", ONE),
    ("an append compares the row", LATE),
    ("an append makes no key", ONE),
    ("progress moves with the last append", ONE),
    ("a fold waits for all partitions", APART),
    ("the least progress is the resume epoch", APART),
    ("what is uncommitted is dropped", APART),
    ("a fold is compared", LATE),
    ("a chunk heeds the mark", LATE),
    ("a chunk heeds the mark", TAIL),
    ("a trim follows the fold", ONE),
    ("applied is checked", JOURNAL),
    ("settling asks what is applied and a start is on the replicas", CELL),
    ("a fold looks at progress with the journal", TAIL),
    ("a fold looks at progress with the journal", JOURNAL),
    ("a start looks at the cell that it restores", TWO),
    ("a start is on the replicas", TAILS),
    ("a journal goes with one's own fence on it and absence is a loss", FORGOTTEN_AND_OLD),
    ("starts have IDs", FORGOTTEN),
    ("the counter has a start ID", FORGOTTEN),
    ("a cell has a start ID", FORGOTTEN),
    ("a partition has a start ID", FORGOTTEN),
]


@pytest.mark.parametrize(
    "scenario",
    [*SCENARIOS, *(pytest.param(one, marks=VERY_LONG) for one in LARGE)],
    ids=lambda scenario: scenario.name,
)
def test_the_start_is_right_in_every_interleaving(scenario: Scenario) -> None:
    outcome = explore(scenario)
    assert not outcome.wrong, "\n".join([outcome.wrong, *outcome.trace])
    assert any("runs" in ends for ends in outcome.ends), "no start ever runs"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_start_that_folds_before_it_fences_cells_harms_nothing_and_never_runs(
    scenario: Scenario,
) -> None:
    """The cells are still the old writer's; to fold in its name is a broken order of its own."""
    outcome = explore(replace(scenario, order=_FOLDED_FIRST))
    assert not outcome.wrong, "\n".join([outcome.wrong, *outcome.trace])
    assert not any("runs" in ends for ends in outcome.ends)


@pytest.mark.parametrize(
    ("rule", "scenario"),
    [pytest.param(*b, marks=pytest.mark.long if b[1] in LONG else ()) for b in BROKEN],
    ids=lambda one: getattr(one, "name", one),
)
def test_without_a_rule_something_goes_wrong(rule: str, scenario: Scenario) -> None:
    assert explore(scenario, broken(rule)).wrong


def broken(rule: str) -> frozenset[str]:
    """A rule that another one makes up for is broken together with it."""
    return frozenset(rule.split(" and "))


def _row(what: str, outcome: Outcome) -> str:
    found = f"{outcome.wrong} ({len(outcome.trace)} moves)" if outcome.wrong else "holds"
    return f"{what:<52} {outcome.states:>7} {outcome.seconds:>6.1f} s  {found}"


def main() -> None:
    for scenario in (*SCENARIOS, *LARGE):
        print(_row(scenario.name, explore(scenario)))
    print()
    for rule, scenario in BROKEN:
        print(_row(rule, outcome := explore(scenario, broken(rule))), flush=True)
        for number, label in enumerate(outcome.trace, 1):
            print(f"      {number:>2} {label}")


if __name__ == "__main__":
    main()
