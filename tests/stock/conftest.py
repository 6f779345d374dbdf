"""A recovery directory that a run of Bytewax has left, for each test of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stock import stock_runs as stock


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The store of a run that ended, to be copied."""
    return stock.run("windows", stock.make_store(tmp_path_factory.mktemp("stock") / "db", 1))


@pytest.fixture
def store(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "db"))
