"""ARCHITECTURE.md agrees with the code: its file map, and the tests that hold its decisions."""

from __future__ import annotations

import re

import pytest

from tests.file_map import DOCUMENT, PACKAGE, ROOT, file_map, parts, rooms, rows

NAMED_TEST = re.compile(r"\[(test_\w+)\]\((tests/[\w/]+\.py)\)")


def test_the_file_map_is_the_rooms_own():
    assert parts()[1] == file_map(), "python -m tests.file_map writes it again"


@pytest.mark.parametrize("room", [room for room in rooms() if dict(rows(room))])
def test_the_table_of_a_room_names_its_files_and_rooms(room):
    files = {path.stem for path in room.glob("*.py")} - {"__init__"}
    inner = {path.parent.name for path in room.glob("*/__init__.py")}
    assert {name for name, _ in rows(room)} == files | inner


def test_every_file_is_in_the_map():
    text = file_map()
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert [path for path in files if f"({path.relative_to(ROOT)})" not in text] == []


@pytest.mark.parametrize(("name", "file"), sorted(set(NAMED_TEST.findall(DOCUMENT.read_text()))))
def test_a_test_that_a_decision_names_is_there(name, file):
    assert f"def {name}(" in (ROOT / file).read_text()
