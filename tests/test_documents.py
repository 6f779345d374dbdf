"""What the documents say is true: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bytewax_redis_state.chaos.waiting import BOUND_SECONDS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.parts)
)
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
    )


def test_the_python_in_the_readme_runs_and_sums(tmp_path: Path, redis_url: str) -> None:
    (code,) = blocks("python")
    script = tmp_path / "orders.py"
    script.write_text(code)
    done = run([sys.executable, str(script)], tmp_path, BYTEWAX_REDIS_URL=redis_url)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["('ann', 3)", "('ann', 8)", "('bob', 4)"]


def test_the_python_in_the_readme_goes_on_where_it_ended(tmp_path: Path, redis_url: str) -> None:
    (code,) = blocks("python")
    script = tmp_path / "orders.py"
    script.write_text(code)
    first = run([sys.executable, str(script)], tmp_path, BYTEWAX_REDIS_URL=redis_url)
    script.write_text(code.replace('("ann", 5)]', '("ann", 5), ("ann", 1)]'))
    second = run([sys.executable, str(script)], tmp_path, BYTEWAX_REDIS_URL=redis_url)
    assert first.returncode == second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == ["('ann', 9)"]


def test_the_flow_in_the_readme_runs_without_any_redis(tmp_path: Path) -> None:
    (command,) = (line for line in README.splitlines() if line.startswith("python -m bytewax"))
    _, *arguments = command.split()
    arguments[2] = str(ROOT / arguments[2])
    done = run([sys.executable, *arguments], tmp_path, CLICKS_EVENTS="2000", BYTEWAX_REDIS_URL="")
    assert done.returncode == 0, done.stderr
    assert "clicks" in done.stdout
    assert (tmp_path / ".bytewax-redis-state").is_dir()


def test_the_make_targets_in_the_readme_exist() -> None:
    wanted = re.findall(r"^make (\S+)", "\n".join(blocks("sh")), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert wanted == ["demo", "test"]
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in wanted)


def test_every_option_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`(-[a-z]|--[a-z-]+)", README)) - {"-r", "-b"}
    help_text = run([sys.executable, "-m", "bytewax_redis_state.run", "--help"], ROOT).stdout
    assert {option for option in named if option not in help_text} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []
