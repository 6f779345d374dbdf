"""Two wheels: the package, and the one with what `bench` needs, each without the other's files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="pip install -e '.[dev]'")

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "packaging" / "bench"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> tuple[Path, Path]:
    """The package's wheel and the bench wheel."""
    made = tmp_path_factory.mktemp("wheels")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", made]
    subprocess.run([*PIP, "wheel", *options, ROOT, BENCH], check=True, timeout=200)
    [package] = made.glob("bytewax_redis_state-*.whl")
    [bench] = made.glob("bytewax_redis_state_bench-*.whl")
    return package, bench


def files_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def install(wheels: tuple[Path, ...], site: Path) -> Path:
    options = ["--no-deps", "--no-index", "--target", site]
    subprocess.run([*PIP, "install", *options, *wheels], check=True, timeout=100)
    return site


@pytest.fixture(scope="module")
def package_only(wheels, tmp_path_factory) -> Path:
    return install(wheels[:1], tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def both(wheels, tmp_path_factory) -> Path:
    return install(wheels, tmp_path_factory.mktemp("both"))


def run_installed(site: Path, code: str):
    """Run code with what is installed there, in front of the checkout."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def command(*arguments: str) -> str:
    return f"from bytewax_redis_state.cli.main import main\nsys.exit(main({list(arguments)!r}))"


def test_no_file_is_in_both_wheels(wheels):
    package, bench = map(files_in, wheels)
    assert not package & bench


def test_the_package_s_wheel_carries_no_harness_and_no_benchmark(wheels):
    package, bench = map(files_in, wheels)
    for part in ("bytewax_redis_state/chaos/", "/benchmarks/", "/tests/"):
        assert not [name for name in package if part in name]
    assert "bytewax_redis_state/cli/demo/flow/clicks_per_minute.py" in package
    assert "bytewax_redis_state/scripts/append.lua" in package
    assert "bytewax_redis_state/py.typed" in package
    assert "bytewax_redis_state/chaos/campaign.py" in bench
    assert "bytewax_redis_state/cli/bench/shipped/benchmarks/invocation.py" in bench


def test_both_wheels_are_of_one_version(wheels):
    assert {wheel.name.split("-")[1] for wheel in wheels} == {
        re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    }
    [metadata] = [
        name for name in zipfile.ZipFile(wheels[1]).namelist() if name.endswith("/METADATA")
    ]
    version = wheels[0].name.split("-")[1]
    text = zipfile.ZipFile(wheels[1]).read(metadata).decode()
    assert f"Requires-Dist: bytewax-redis-state=={version}" in text


@pytest.mark.parametrize("arguments", [("jobs", "--list"), ("--help",), ("chaos", "--", "x"), ()])
def test_without_the_bench_wheel_bench_says_in_one_line_what_to_install(package_only, arguments):
    done = run_installed(package_only, command("bench", *arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "bytewax-redis-state: error: the command bench is not installed; "
        "pip install 'bytewax-redis-state[bench]'\n"
    )


def test_the_demo_s_flow_is_in_the_package_s_wheel(package_only):
    code = "from bytewax_redis_state.cli.demo.clicks_flow import flow_file\nprint(flow_file())"
    done = run_installed(package_only, code)
    assert str(package_only) in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"), [(("jobs", "--list"), "a  "), (("chaos", "--help"), "Faults: ")]
)
def test_with_the_bench_wheel_bench_runs(both, arguments, words):
    done = run_installed(both, command("bench", *arguments))
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
