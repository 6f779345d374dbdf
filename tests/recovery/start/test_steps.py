"""The steps of a start: the table, the function and the crash tests list the same."""

from __future__ import annotations

import ast
import inspect
import re

from bytewax_redis_state.recovery.start import steps
from tests.crash.test_start_steps import OTHERS, PHASES, STEPS


def noted() -> list[str]:
    """The steps that the function notes, in the order of its lines."""
    tree = ast.parse(inspect.getsource(steps.start_flow))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "id", "") == "reached"]
    return [call.args[0].value for call in sorted(named, key=lambda call: call.lineno)]


def test_the_table_lists_the_steps_that_the_function_makes():
    table = re.findall(r"^ ?(\d+)  (?:``(\w+)``)?", steps.__doc__, re.MULTILINE)
    assert [int(number) for number, _ in table] == list(range(1, 18))
    listed = [step for _, step in table[1:]]
    assert listed == [step for step in noted() if step not in ("waiting", "listed")]


def test_the_crash_tests_strike_at_each_step():
    assert [*STEPS, *PHASES] == [step for step in noted() if step not in ("waiting", "listed")]
    others = ["claimed", "waiting", "listed"]
    assert list(OTHERS) == [*others, *noted()[noted().index("listed") + 1 :]]
