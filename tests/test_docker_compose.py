"""The compose file offers a Redis that keeps what it acknowledged."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parents[1] / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def redis(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["redis"]


def test_the_image_is_official_and_pinned(redis: dict[str, Any]) -> None:
    name, tag = redis["image"].split(":")
    assert name == "redis"
    assert tag[0].isdigit()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--appendonly", "yes"),
        ("--appendfsync", "everysec"),
        ("--maxmemory-policy", "noeviction"),
    ],
)
def test_it_persists_and_never_evicts(redis: dict[str, Any], option: str, value: str) -> None:
    assert redis["command"][0] == "redis-server"
    assert (option, value) in pairwise(redis["command"])


def test_every_word_of_the_command_is_text(redis: dict[str, Any]) -> None:
    assert all(isinstance(word, str) for word in redis["command"])


def test_its_data_is_on_a_named_volume(compose: dict[str, Any], redis: dict[str, Any]) -> None:
    volume, place = redis["volumes"][0].split(":")
    assert volume in compose["volumes"]
    assert place == "/data"


def test_it_is_healthy_when_it_answers(redis: dict[str, Any]) -> None:
    kind, command = redis["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert "redis-cli ping" in command


def test_it_listens_on_this_machine_only(redis: dict[str, Any]) -> None:
    assert redis["ports"] == ["127.0.0.1:6379:6379"]
