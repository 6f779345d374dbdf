"""The example flows run under stock Bytewax and put out what the oracle reckons."""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ports import free_addresses

DATAFLOWS = Path(__file__).parents[2] / "examples" / "dataflows"
SETTINGS = {
    "clicks_per_minute": {"CLICKS_EVENTS": "6001", "CLICKS_PAGES": "12", "CLICKS_RATE": "10"},
    "rolling_average": {"ROLLING_EVENTS": "2001", "ROLLING_SENSORS": "6"},
    "sessions": {"SESSIONS_EVENTS": "2000", "SESSIONS_USERS": "9"},
    "fraud_score": {"FRAUD_EVENTS": "3001", "FRAUD_CARDS": "30"},
    "expiring_sessions": {"EXPIRING_VISITORS": "501", "EXPIRING_OPEN": "1"},
}
NAMES = sorted(SETTINGS)
TIMEOUT = 60


def start(name, settings, *options):
    command = [sys.executable, "-m", "bytewax.run", f"{DATAFLOWS / name}.py:flow", *options]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BYTEWAX_")}
    # A small batch, so that the watermarks move in many steps.
    settings = {settings_prefix(name) + "BATCH": "50", **settings}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env={**environ, **settings}, stdout=pipe, stderr=pipe, text=True
    )


def finish(run):
    try:
        out, err = run.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        run.kill()
        raise
    assert run.returncode == 0, err
    # Processes that wait for each other say so on stdout.
    return [line for line in out.splitlines() if not re.match(r"worker \d+:\t", line)]


def settings_prefix(name):
    return next(iter(SETTINGS[name])).split("_")[0] + "_"


def start_two_processes(name, settings):
    addresses = ";".join(free_addresses(2))
    return [start(name, settings, "-i", str(i), "-a", addresses) for i in range(2)]


def closed_windows(oracle, directory):
    return len(oracle.read_windows(directory)) if directory.exists() else 0


def test_every_example_is_tested(oracle):
    assert oracle.NAMES == NAMES == sorted(oracle.LINES)


@pytest.mark.parametrize("name", NAMES)
def test_puts_out_what_the_oracle_reckons(oracle, name):
    settings = SETTINGS[name]
    assert sorted(finish(start(name, settings))) == sorted(oracle.LINES[name](settings))


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_put_out_the_same(oracle, name):
    settings = SETTINGS[name]
    runs = start_two_processes(name, settings)
    lines = [line for run in runs for line in finish(run)]
    assert sorted(lines) == sorted(oracle.LINES[name](settings))


def test_two_workers_write_each_window_of_clicks_once(oracle, tmp_path):
    settings = SETTINGS["clicks_per_minute"]
    finish(start("clicks_per_minute", {**settings, "CLICKS_OUT": str(tmp_path)}, "-w", "2"))
    assert oracle.read_windows(tmp_path) == oracle.click_windows(settings)
    windows = [record for record in oracle.read_records(tmp_path) if "window" in record]
    assert len(windows) == len(oracle.click_windows(settings))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_clicks_killed_in_midstream_close_the_same_windows(oracle, tmp_path, workers):
    """Under Bytewax's own recovery, because an example must not need ours to be right."""
    before, after, recovery = tmp_path / "before", tmp_path / "after", tmp_path / "recovery"
    recovery.mkdir()
    subprocess.run(
        [sys.executable, "-m", "bytewax.recovery", str(recovery), "2"],
        check=True,
        capture_output=True,
    )
    settings = SETTINGS["clicks_per_minute"]
    options = ("-w", workers, "-r", str(recovery), "-s", "1", "-b", "0")

    slow = {**settings, "CLICKS_OUT": str(before), "CLICKS_PAUSE": "0.12"}
    run = start("clicks_per_minute", slow, *options)
    deadline = time.monotonic() + TIMEOUT
    while closed_windows(oracle, before) < 75 and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.01)
    run.kill()
    run.communicate()
    finish(start("clicks_per_minute", {**settings, "CLICKS_OUT": str(after)}, *options))

    expected = oracle.click_windows(settings)
    early, late = oracle.read_windows(before), oracle.read_windows(after)
    assert len(early) < len(expected), "killed too late"
    assert len(late) < len(expected), "began from the start"
    assert early | late == expected
    assert all(early[window] == late[window] for window in early.keys() & late.keys())


@pytest.mark.parametrize("name", NAMES)
def test_imports_bytewax_and_the_standard_library_only(name):
    tree = ast.parse((DATAFLOWS / f"{name}.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {module.split(".")[0] for module in imported}
    assert packages <= sys.stdlib_module_names | {"bytewax"}


@pytest.mark.parametrize("name", NAMES)
def test_documents_every_setting_and_its_default(name):
    source = (DATAFLOWS / f"{name}.py").read_text()
    settings = re.findall(r'environ\.get\("(\w+)"(?:, "(\d+)")?\)', source)
    docstring = ast.get_docstring(ast.parse(source))
    readme = (DATAFLOWS / "README.md").read_text()
    for setting, default in settings:
        assert setting.startswith(settings_prefix(name))
        assert re.search(rf"^{setting} .* {default or 'stdout'}$", docstring, re.MULTILINE)
        assert f"`{setting}`" in readme
    documented = re.findall(rf"^({settings_prefix(name)}\w+) ", docstring, re.MULTILINE)
    assert sorted(documented) == sorted(setting for setting, _ in settings)
