"""Settings are checked when they are made, name what is wrong, and keep secrets to themselves."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bytewax_redis_state.config import (
    ENVIRONMENT,
    RecoverySettings,
    RedisConfig,
    redis_url_from_env,
)
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.run import parser


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost:7000/3", "redis://localhost:7000/3"),
        ("rediss://user:secret@example.org:7000/3", "rediss://example.org:7000/3"),
        ("redis://:secret@[::1]:7000", "redis://::1:7000/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix://user:secret@/run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
    ],
)
def test_an_address_tells_where_and_no_secret(url, address):
    config = RedisConfig(url=url)
    assert config.address == address
    assert "secret" not in repr(config)
    assert address in repr(config)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("", "scheme ''"),
        ("localhost:6379", "scheme 'localhost'"),
        ("http://localhost", "scheme 'http'"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://localhost:port", "does not parse"),
        ("redis://localhost:99999", "does not parse"),
        ("redis://localhost:0", "port 0"),
        ("redis://localhost/zero", "database 'zero'"),
        ("redis://[::1", "does not parse"),
        ("unix://", "no socket"),
    ],
)
def test_a_url_that_is_none_is_refused_with_how_to_write_it(url, what):
    with pytest.raises(ConfigError, match=what) as caught:
        RedisConfig(url=url)
    assert "redis://" in caught.value.hint


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=6),
    user=st.sampled_from(["", "user"]),
    rest=st.sampled_from(
        ["localhost:port", "localhost:0", "", "localhost/zero", "[::1", "h:99999"]
    ),
    scheme=st.sampled_from(["redis", "rediss", "http"]),
)
def test_no_error_shows_a_password(secret, user, rest, scheme):
    """Also where it holds characters that should have been escaped."""
    assume(not any(part in _shown(f"{scheme}://{rest}") for part in [secret, *_parts(secret)]))
    shown = _shown(f"{scheme}://{user}:{secret}@{rest}")
    assert secret not in shown
    for part in _parts(secret):
        assert part not in shown


def _shown(url: str) -> str:
    try:
        return repr(RedisConfig(url=url))
    except ConfigError as error:
        return str(error)


def _parts(secret: str) -> list[str]:
    """What a parser that takes a password's character for a delimiter would cut out."""
    cut = secret
    for delimiter in "/?#@:[]":
        cut = cut.replace(delimiter, "\0")
    return [part for part in cut.split("\0") if len(part) >= 4]


@pytest.mark.parametrize("field", ["connect_timeout", "read_timeout", "write_timeout"])
@pytest.mark.parametrize("value", [timedelta(0), timedelta(seconds=-1), 5])
def test_a_timeout_is_a_duration_above_zero(field, value):
    with pytest.raises(ConfigError, match=field):
        RedisConfig(**{field: value})


def test_settings_are_frozen_and_named():
    with pytest.raises(FrozenInstanceError):
        RedisConfig().url = "redis://elsewhere"
    with pytest.raises(TypeError):
        RedisConfig("redis://localhost")
    with pytest.raises(TypeError):
        RecoverySettings("namespace")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", ""),
        ("namespace", "a\nb"),
        ("shards", 0),
        ("shards", 4097),
        ("checkpoint_interval", timedelta(0)),
        ("join_timeout", timedelta(0)),
        ("drain_timeout", 60),
    ],
)
def test_a_setting_that_can_not_be_right_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        RecoverySettings(**{field: value})


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="drop_steps and rename_steps both name 'old'"):
        RecoverySettings(drop_steps=frozenset({"old"}), rename_steps={"old": "new"})
    with pytest.raises(ConfigError, match="rename_steps gives one name twice"):
        RecoverySettings(rename_steps={"a": "new", "b": "new"})


def test_the_environment_says_where(monkeypatch, tmp_path):
    monkeypatch.setenv("BYTEWAX_REDIS_URL", "redis://there")
    monkeypatch.setenv("BYTEWAX_REDIS_SCRATCH", str(tmp_path))
    assert redis_url_from_env() == "redis://there"
    assert RecoverySettings().scratch == tmp_path
    assert RecoverySettings(scratch="/elsewhere").scratch == Path("/elsewhere")
    monkeypatch.setenv("BYTEWAX_REDIS_URL", "")
    assert redis_url_from_env() is None


def test_every_variable_is_in_the_help(monkeypatch):
    help_text = parser().format_help()
    for name in ENVIRONMENT:
        assert name in help_text
