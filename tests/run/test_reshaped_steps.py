"""A step that became another one under its name does not get the old one's state by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import reshaped

FLOW = Path(reshaped.__file__)
PLACES = {"amount": "reshaped.score.amount", "visits": "reshaped.score.visits"}


def described(step: str) -> str:
    operator = "stateful_map" if step in PLACES else step
    return f"the operator {operator} ({PLACES.get(step, 'reshaped.score')})"


def run_step(run, step: str, *options: str, items: int):
    return run(*options, file=FLOW, STEP=step, ITEMS=str(items))


def require_refused(done, was: str, step: str) -> None:
    assert done.returncode == 2
    assert (
        f"Redis holds state of step 'score', which was {described(was)}, and the flow's step of "
        f"that name is now {described(step)}; let it start without state, and delete the old one, "
        "with --drop-step score; or give it that state with --rename-step score=score"
    ) in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_step_whose_operator_changed_is_refused_and_nothing_is_touched(run, dump):
    """Also where Bytewax gives the core step inside the same ID."""
    assert run_step(run, "stateful_flat_map", items=2).returncode == 0
    before = dump()
    for step in reshaped.STEPS:
        if step != "stateful_flat_map":
            require_refused(run_step(run, step, items=3), "stateful_flat_map", step)
    assert dump() == before


@pytest.mark.parametrize(("was", "now"), [("amount", "visits"), ("stateful_map", "count_final")])
def test_it_starts_without_state_where_the_old_one_is_dropped(run, was, now):
    assert run_step(run, was, items=2).stdout.splitlines() == ["('ann', 100)", "('ann', 200)"]
    require_refused(run_step(run, now, items=3), was, now)
    for items in (3, 4):  # the option may stay in the unit file
        done = run_step(run, now, "--drop-step", "score", items=items)
        assert done.returncode == 0, done.stderr
        counted = 1 if now == "count_final" else items - 2
        assert done.stdout.splitlines() == [f"('ann', {counted})"]


def test_it_gets_the_old_ones_state_where_the_user_says_so(run):
    assert run_step(run, "amount", items=2).returncode == 0
    for items in (3, 4):
        done = run_step(run, "visits", "--rename-step", "score=score", items=items)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"('ann', {200 + items - 2})"]
    assert run_step(run, "visits", items=5).stdout.splitlines() == ["('ann', 203)"]
