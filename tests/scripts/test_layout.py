"""Each Lua file says what it does, and has its method."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from itertools import takewhile

import pytest

from bytewax_redis_state.scripts import (
    NUMBER_CHECKS,
    SCRIPT_NAMES,
    STATE_SCRIPT_NAMES,
    Scripts,
    StateScripts,
    script_source,
)

FOLDER = resources.files("bytewax_redis_state.scripts")
CLASSES = {Scripts: SCRIPT_NAMES, StateScripts: STATE_SCRIPT_NAMES}
ALL_NAMES = [*SCRIPT_NAMES, *STATE_SCRIPT_NAMES]
HOMES = [(name, home) for home, names in CLASSES.items() for name in names]


def header(name: str) -> list[str]:
    return list(takewhile(lambda line: line.startswith("--"), script_source(name).splitlines()))


def test_the_files_are_the_listed_ones():
    files = {file.name.removesuffix(".lua") for file in FOLDER.iterdir() if ".lua" in file.name}
    assert sorted(files) == sorted([*ALL_NAMES, NUMBER_CHECKS])


@pytest.mark.parametrize("names", CLASSES.values())
def test_a_list_is_in_order(names):
    assert list(names) == sorted(names)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_header_says_keys_arguments_answer_and_invariant(name):
    said = header(name)
    assert re.fullmatch(r"-- [A-Z].*\.", said[0]), "one sentence first"
    text = "\n".join(said)
    for part in (r"^-- KEYS\[1(\.\.)?\]", r"ARGV\[1(\.\.)?\]", r"^-- Returns ", r"^-- Invariant: "):
        assert re.search(part, text, re.MULTILINE), part


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_header_names_every_key_and_argument_of_the_body(name):
    source = script_source(name)
    said = "\n".join(header(name))
    body = source[len(said) :]
    for kind in ("KEYS", "ARGV"):
        for number in set(map(int, re.findall(rf"{kind}\[(\d+)\]", body))):
            spans = re.findall(rf"{kind}\[(\d+)(\.\.)?\]", said)
            assert any(int(n) == number or (more and number >= int(n)) for n, more in spans)


@pytest.mark.parametrize(("name", "home"), HOMES)
def test_a_script_has_a_method_of_its_name(name, home):
    assert inspect.isfunction(getattr(home, name))


@pytest.mark.parametrize("home", CLASSES)
def test_there_is_no_method_without_a_script(home):
    methods = {n for n, _ in inspect.getmembers(home, inspect.isfunction) if n[0] != "_"}
    assert methods == set(CLASSES[home])


def test_a_script_is_read_once_however_many_clients_there_are():
    for name in SCRIPT_NAMES:
        assert script_source(name) is script_source(name)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_no_script_does_what_rule_20_forbids(name):
    """Rule 20: no key computed in Lua; no KEYS, FLUSH or CONFIG; time is the server's."""
    body = "\n".join(line for line in script_source(name).splitlines() if line[:2] != "--")
    calls = re.findall(r"redis\.call\('(\w+)', ([^,)]+)", body)
    assert calls or "redis.call('TIME')" in body
    for command, key in calls:
        assert not re.match(r"KEYS$|FLUSH|CONFIG|SCAN", command)
        assert command == "INFO" or re.match(r"KEYS\[|unpack\(", key), f"{command} touches {key}"
    assert "os.time" not in body
