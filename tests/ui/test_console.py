"""What a person reads on standard error."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.recovery.reporter import Resumed
from bytewax_redis_state.ui import console as console_module
from bytewax_redis_state.ui.console import ConsoleReporter, DelayedBar, print_error

SHOW_ALL = """
import sys
from bytewax_redis_state.ui.console import ConsoleReporter, print_error
from bytewax_redis_state.errors import StateError
from bytewax_redis_state.recovery.reporter import Resumed
before = set(sys.modules)
reporter = ConsoleReporter()
reporter.warn("a warning")
reporter.resumed(Resumed(epoch=7, keys={"sum": 3}, seconds=0.1, generation=2))
print_error(StateError("it is wrong"))
print(*sorted(set(sys.modules) - before))
"""


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"a:bug:b": 3}
    ConsoleReporter().resumed(Resumed(epoch=7, keys=keys, seconds=0.1, generation=2))
    print_error(StateError("the flow 'a:smile:b' [red]is taken[/red]"))
    resumed, error = capsys.readouterr().err.splitlines()
    assert "keys: 3 a:bug:b, " in resumed
    assert error.endswith("the flow 'a:smile:b' [red]is taken[/red]")


def test_nothing_is_imported_to_show_a_line() -> None:
    """A take-over may interrupt a line; in the midst of an import, the error could not be shown."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_ALL],
        capture_output=True,
        text=True,
        check=True,
        timeout=BOUND_SECONDS,
    )
    assert len(done.stderr.splitlines()) == 3
    assert done.stdout.split() == []


def test_a_progress_bar_redirects_nothing_that_the_flow_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rich sends standard output to the bar's console, which is standard error."""
    monkeypatch.setattr(console_module, "_DELAY_SECONDS", 0.0)
    before = sys.stdout, sys.stderr
    bar = DelayedBar("resuming", "keys", Console(file=io.StringIO(), force_terminal=True))
    bar.update(1, 10)
    try:
        assert (sys.stdout, sys.stderr) == before
    finally:
        bar.stop()
