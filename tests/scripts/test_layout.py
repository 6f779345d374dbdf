"""Each Lua file says what it does, and has its method."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from itertools import takewhile

import pytest

from bytewax_redis_state.scripts import SCRIPT_NAMES, Scripts, script_source

FOLDER = resources.files("bytewax_redis_state.scripts")


def header(name: str) -> list[str]:
    return list(takewhile(lambda line: line.startswith("--"), script_source(name).splitlines()))


def test_the_files_are_the_listed_ones():
    files = {file.name.removesuffix(".lua") for file in FOLDER.iterdir() if ".lua" in file.name}
    assert files == set(SCRIPT_NAMES)
    assert list(SCRIPT_NAMES) == sorted(SCRIPT_NAMES)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_header_says_keys_arguments_answer_and_invariant(name):
    said = header(name)
    assert re.fullmatch(r"-- [A-Z].*\.", said[0]), "one sentence first"
    text = "\n".join(said)
    for part in (r"^-- KEYS\[1\]", r"ARGV\[1\]", r"^-- Returns ", r"^-- Invariant: "):
        assert re.search(part, text, re.MULTILINE), part


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_header_names_every_key_and_argument_of_the_body(name):
    source = script_source(name)
    said = "\n".join(header(name))
    body = source[len(said) :]
    for kind in ("KEYS", "ARGV"):
        for number in set(map(int, re.findall(rf"{kind}\[(\d+)\]", body))):
            spans = re.findall(rf"{kind}\[(\d+)(\.\.)?\]", said)
            assert any(int(n) == number or (more and number >= int(n)) for n, more in spans)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_a_script_has_a_method_of_its_name(name):
    assert inspect.isfunction(getattr(Scripts, name))


def test_there_is_no_method_without_a_script():
    methods = {n for n, _ in inspect.getmembers(Scripts, inspect.isfunction) if n[0] != "_"}
    assert methods == set(SCRIPT_NAMES)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_no_script_does_what_rule_20_forbids(name):
    """Rule 20: no key computed in Lua; no KEYS, FLUSH or CONFIG; time is the server's."""
    body = "\n".join(line for line in script_source(name).splitlines() if line[:2] != "--")
    calls = re.findall(r"redis\.call\('(\w+)', ([^,)]+)", body)
    assert calls or "redis.call('TIME')" in body
    for command, key in calls:
        assert not re.match(r"KEYS$|FLUSH|CONFIG|SCAN", command)
        assert re.match(r"KEYS\[|unpack\(", key), f"{command} touches {key}"
    assert "os.time" not in body
