"""The file map of ARCHITECTURE.md, made of the tables that the rooms' own ``__init__.py`` hold.

``python -m tests.file_map`` writes it again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bytewax_redis_state"
DOCUMENT = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- file map -->\n", "<!-- end of the file map -->\n"
_ROW = re.compile(r"^(?:`(\w+)`|(\w+)\.py)\s+(.+)$")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def rows(room: Path) -> Iterator[tuple[str, str]]:
    """Name and noun of each file or room, as the table of the room has them."""
    for line in docstring(room / "__init__.py").splitlines():
        if found := _ROW.match(line):
            bare, file, noun = found.groups()
            yield bare or file, noun.replace("``", "`")


def rooms() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def file_map() -> str:
    text = ""
    for room in rooms():
        name = room.relative_to(ROOT)
        title = docstring(room / "__init__.py").splitlines()[0].replace("``", "`")
        text += f"\n**[{name}/]({name}/)**: {title}\n\n"
        table = dict(rows(room)) or own_nouns(room)
        for file, noun in table.items():
            path = room / file if (room / file).is_dir() else room / f"{file}.py"
            text += f"- [{path.name}]({path.relative_to(ROOT)}): {noun}\n"
    return text


def own_nouns(room: Path) -> dict[str, str]:
    """First lines of the files' docstrings, for a room that is too small for a table."""
    files = (path for path in sorted(room.glob("*.py")) if path.stem != "__init__")
    return {path.stem: docstring(path).splitlines()[0].replace("``", "`") for path in files}


def parts() -> tuple[str, str, str]:
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    found, _, after = rest.partition(END)
    return before, found, after


if __name__ == "__main__":
    before, _, after = parts()
    DOCUMENT.write_text(before + BEGIN + file_map() + END + after)
