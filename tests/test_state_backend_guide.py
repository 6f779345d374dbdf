"""The guide to the state backend is true: its code runs, its names exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bytewax_redis_state import RedisConfig, RedisStateBackend, errors

GUIDE = Path(__file__).parent.parent / "docs" / "state-backend.md"
TEXT = GUIDE.read_text()


def test_its_code_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch, client) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("BYTEWAX_REDIS_URL", redis_url)
    names: dict[str, object] = {"__name__": "guide"}
    for match in re.finditer(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        line = TEXT.count("\n", 0, match.start()) + 1
        exec(compile("\n" * line + match[1], str(GUIDE), "exec"), names)
    assert [key for key in client.scan_iter() if b"__bytewax__" not in key] == []


def test_it_lists_every_field_of_the_configuration_with_its_default() -> None:
    rows = dict(re.findall(r"^\| (`.*?`) \| (.*?) \|", TEXT, re.MULTILINE))
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {field.name for field in fields(RedisConfig)} <= told
    defaults = RedisConfig()
    assert rows["`url`"] == f"`{defaults.url}`"
    assert rows["`key_prefix`"] == f"`{defaults.key_prefix}`"
    assert rows["`pool_min`, `pool_max`"] == f"{defaults.pool_min}, {defaults.pool_max}"
    assert rows["`pipeline_batch_size`"] == str(defaults.pipeline_batch_size)
    assert rows["`retry_attempts`"] == str(defaults.retry_attempts)
    assert defaults.connect_timeout.total_seconds() == 5
    assert defaults.read_timeout == defaults.write_timeout
    assert defaults.read_timeout.total_seconds() == 3


def test_every_error_and_method_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(\w+Error)`", TEXT))
    assert named <= set(errors.__all__)
    methods = set(re.findall(r"backend\.(\w+)\(", TEXT))
    assert {name for name in methods if not hasattr(RedisStateBackend, name)} == set()
