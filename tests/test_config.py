"""Settings are checked when they are made, name what is wrong, and keep secrets to themselves."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bytewax_redis_state.config import (
    ENVIRONMENT,
    RecoverySettings,
    RedisConfig,
    RedisConfigBuilder,
    parse_duration,
    redis_url_from_env,
)
from bytewax_redis_state.config.loading import READERS
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.run import parser


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost:7000/3", "redis://localhost:7000/3"),
        ("rediss://user:secret@example.org:7000/3", "rediss://example.org:7000/3"),
        ("redis://:secret@[::1]:7000", "redis://[::1]:7000/0"),
        ("REDIS://localhost", "redis://localhost:6379/0"),
        ("Rediss://user:secret@[fe80::1]", "rediss://[fe80::1]:6379/0"),
        ("UNIX:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("Redis+Cluster://[::1]:1,two", "redis+cluster://[::1]:1,two:6379"),
        ("REDIS+SENTINEL://[::1]/home", "redis+sentinel://[::1]:26379/home/0"),
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
        ("unix://run/redis.sock", "full path"),
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
        ("fast_paths", 1),
        ("namespace", ""),
        ("namespace", "a\nb"),
        ("shards", 0),
        ("shards", 4097),
        ("checkpoint_interval", timedelta(0)),
        ("join_timeout", timedelta(0)),
        ("drain_timeout", 60),
        ("downtime_allowance", timedelta(0)),
        ("downtime_allowance", timedelta(days=40_000)),
        ("window_grace", timedelta(-1)),
        ("window_grace", 60),
        ("on_expired", "ignore"),
        ("retention", {"sum": timedelta(0)}),
        ("retention", {"sum": "7d"}),
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


def test_the_environment_says_how_long_state_is_kept(monkeypatch):
    monkeypatch.setenv("BYTEWAX_REDIS_RETENTION", "orders.sum=7d, visits=forever")
    monkeypatch.setenv("BYTEWAX_REDIS_WINDOW_GRACE", "2h")
    monkeypatch.setenv("BYTEWAX_REDIS_DOWNTIME_ALLOWANCE", "90")
    settings = RecoverySettings()
    assert settings.retention == {"orders.sum": timedelta(days=7), "visits": None}
    assert settings.window_grace == timedelta(hours=2)
    assert settings.downtime_allowance == timedelta(seconds=90)
    assert RecoverySettings(retention={}).retention == {}


@pytest.mark.parametrize(("text", "on"), [("", True), ("No", False), ("0", False), ("on", True)])
def test_the_environment_turns_fast_paths_off(monkeypatch, text, on):
    monkeypatch.setenv("BYTEWAX_REDIS_FAST_PATHS", text)
    assert RecoverySettings().fast_paths is on
    assert RecoverySettings(fast_paths=not on).fast_paths is not on


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("BYTEWAX_REDIS_RETENTION", "sum=7x", "'7x' is not a duration"),
        ("BYTEWAX_REDIS_RETENTION", "sum", "'sum' is not STEP=DURATION"),
        ("BYTEWAX_REDIS_RETENTION", "sum=7d,sum=8d", "'sum' is given twice"),
        ("BYTEWAX_REDIS_WINDOW_GRACE", "soon", "'soon' is not a duration"),
        ("BYTEWAX_REDIS_FAST_PATHS", "maybe", "'maybe' is neither true nor false"),
        ("BYTEWAX_REDIS_DOWNTIME_ALLOWANCE", "9" * 30 + "d", "longer than the longest duration"),
    ],
)
def test_a_variable_of_recovery_that_can_not_be_read_is_named(monkeypatch, name, text, said):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"{name}: .*{said}") as caught:
        RecoverySettings()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7d", 604_800),
        ("1h30m", 5400),
        ("2w", 1_209_600),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("0.25", 0.25),
        ("10", 10),
        (".5", 0.5),
        ("0", 0),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "d", "-1", "-1d", "7 d", "7dd", "1e3", "nan", "inf", "7D"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="is not a duration") as caught:
        parse_duration(text)
    assert "7d" in caught.value.hint


@given(st.integers(0, 10**12))
def test_a_duration_written_in_units_comes_back(milliseconds):
    rest, parts = milliseconds, []
    for unit, size in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]:
        number, rest = divmod(rest, size)
        parts.append(f"{number}{unit}")
    assert parse_duration("".join(parts)) == timedelta(milliseconds=milliseconds)


def test_every_variable_is_in_the_help(monkeypatch):
    help_text = parser().format_help()
    for name in ENVIRONMENT:
        assert name in help_text


# --- every field of RedisConfig

SECOND = timedelta(seconds=1)


def test_the_defaults_are_the_documented_ones():
    config = RedisConfig()
    assert config.url == "redis://localhost:6379"
    assert config.key_prefix == "state:"
    assert config.default_ttl is None
    assert (config.pool_min, config.pool_max) == (5, 50)
    assert config.connect_timeout == 5 * SECOND
    assert config.read_timeout == config.write_timeout == 3 * SECOND
    assert config.retry_attempts == 3
    assert config.retry_base_delay == timedelta(milliseconds=100)
    assert config.retry_max_delay == 5 * SECOND
    assert (config.cluster_mode, config.tls) == (False, None)
    assert config.pipeline_batch_size == 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", None),
        ("url", b"redis://localhost"),
        ("key_prefix", ""),
        ("key_prefix", None),
        ("key_prefix", b"state:"),
        ("key_prefix", "\ud800"),
        ("default_ttl", timedelta(0)),
        ("default_ttl", timedelta(seconds=-1)),
        ("default_ttl", timedelta(microseconds=999)),
        ("default_ttl", 60),
        ("pool_min", -1),
        ("pool_min", 1.0),
        ("pool_min", True),
        ("pool_max", 0),
        ("pool_max", "50"),
        ("connect_timeout", timedelta(days=2)),
        ("read_timeout", timedelta.max),
        ("write_timeout", None),
        ("retry_attempts", -1),
        ("retry_attempts", None),
        ("retry_base_delay", timedelta(0)),
        ("retry_max_delay", 5),
        ("cluster_mode", None),
        ("cluster_mode", "yes"),
        ("tls", "yes"),
        ("tls", 1),
        ("pipeline_batch_size", 0),
        ("pipeline_batch_size", 10.5),
    ],
)
def test_a_value_that_can_not_be_right_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        RedisConfig(**{field: value})


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        ({"pool_min": 6, "pool_max": 5}, "pool_min is 6", "pool_max is 5"),
        ({"pool_max": 4}, "pool_min is 5", "pool_max is 4"),
        ({"read_timeout": SECOND}, "read_timeout is", "write_timeout is"),
        ({"read_timeout": SECOND, "write_timeout": 2 * SECOND}, "read_timeout", "write_timeout"),
        ({"retry_base_delay": 6 * SECOND}, "retry_base_delay is", "retry_max_delay is"),
        ({"tls": True}, "tls is True", "url is redis://localhost:6379/0"),
        ({"tls": True, "url": "unix:///run/redis.sock"}, "tls is True", "url is unix://"),
        ({"tls": False, "url": "rediss://localhost"}, "tls is False", "url is rediss://"),
        (
            {"cluster_mode": True, "url": "redis://h/3"},
            "cluster_mode is True",
            "url names database 3",
        ),
        ({"cluster_mode": True, "url": "redis://h?db=3"}, "cluster_mode", "url names database 3"),
    ],
)
def test_a_contradiction_names_both_fields(settings, first, second):
    with pytest.raises(ConfigError) as caught:
        RedisConfig(**settings)
    assert first in caught.value.message
    assert second in caught.value.message
    assert caught.value.hint


def test_limits_that_are_right_are_taken():
    assert RedisConfig(pool_min=0, pool_max=1).pool_min == 0
    assert RedisConfig(pool_min=7, pool_max=7).pool_max == 7
    assert RedisConfig(retry_attempts=0).retry_attempts == 0
    assert RedisConfig(default_ttl=timedelta(milliseconds=1)).default_ttl is not None
    assert RedisConfig(retry_base_delay=SECOND, retry_max_delay=SECOND).retry_attempts == 3
    assert RedisConfig(tls=True, url="rediss://localhost").tls
    assert RedisConfig(tls=False, url="unix:///run/redis.sock").tls is False


def test_a_patient_copy_waits_longer_never_shorter():
    config = RedisConfig(url="redis://there", pool_max=7)
    patient = config.patient(30 * SECOND)
    assert patient == replace(config, read_timeout=30 * SECOND, write_timeout=30 * SECOND)
    assert patient.patient(SECOND) == patient


def test_settings_are_values():
    config = RedisConfig(url="redis://:secret@there", key_prefix="x:")
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(replace(config)) == hash(config)
    assert replace(config, pool_max=51) != config


def test_the_repr_has_every_field_and_no_secret():
    config = RedisConfig(url="rediss://user:hush@there:7000/3?ssl_password=hush2")
    shown = repr(config)
    assert "hush" not in shown
    for part in fields(RedisConfig):
        assert f"{part.name}=" in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@there:0",
        "redis://there:99999?password=hush",
        "redis://there/zero?ssl_password=hush",
        "http://hush@there",
        "redis://user:hu?hush@there",
    ],
)
def test_no_error_shows_a_secret_of_the_url(url):
    with pytest.raises(ConfigError) as caught:
        RedisConfig(url=url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"tls": True}, {"cluster_mode": True}, {"pool_max": 0}, {"tls": "hm"}]
)
def test_no_error_of_another_field_shows_a_secret(settings):
    with pytest.raises(ConfigError) as caught:
        RedisConfig(url="redis://user:hush@there/3?ssl_password=hush", **settings)
    assert "hush" not in str(caught.value)


# --- from a URL, the environment and a file


def test_from_a_url_with_settings():
    config = RedisConfig.from_url("redis://there", key_prefix="x:", pool_max=9)
    assert config == RedisConfig(url="redis://there", key_prefix="x:", pool_max=9)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pool_maximum", "did you mean 'pool_max'"),
        ("read_timout", "did you mean 'read_timeout'"),
        ("nonsense", "the settings are key_prefix"),
        ("self", "the settings are"),
    ],
)
def test_from_a_url_a_setting_that_does_not_exist_is_named(name, hint):
    with pytest.raises(ConfigError, match=f"no setting '{name}'") as caught:
        RedisConfig.from_url("redis://there", **{name: 1})
    assert hint in caught.value.hint


EVERY_FIELD = {
    "url": "rediss://there:7000/3?ssl_password=hush",
    "key_prefix": "x:",
    "default_ttl": 3600,
    "pool_min": 1,
    "pool_max": 2,
    "connect_timeout": 0.25,
    "read_timeout": 2,
    "write_timeout": 2,
    "retry_attempts": 0,
    "retry_base_delay": 0.5,
    "retry_max_delay": 1.5,
    "cluster_mode": False,
    "tls": True,
    "pipeline_batch_size": 7,
    "credentials": "hush:get",
}
MADE = RedisConfig(
    url="rediss://there:7000/3?ssl_password=hush",
    key_prefix="x:",
    default_ttl=timedelta(hours=1),
    pool_min=1,
    pool_max=2,
    connect_timeout=timedelta(milliseconds=250),
    read_timeout=2 * SECOND,
    write_timeout=2 * SECOND,
    retry_attempts=0,
    retry_base_delay=timedelta(milliseconds=500),
    retry_max_delay=timedelta(milliseconds=1500),
    cluster_mode=False,
    tls=True,
    pipeline_batch_size=7,
    credentials="hush:get",
)


def test_every_field_can_be_read():
    assert list(READERS) == [part.name for part in fields(RedisConfig)] == list(EVERY_FIELD)


def _variables(prefix):
    return {prefix + name.upper(): str(value) for name, value in EVERY_FIELD.items()}


def test_from_the_environment_with_every_field():
    assert RedisConfig.from_env(environ=_variables("BYTEWAX_REDIS_")) == MADE
    assert RedisConfig.from_env("X_", _variables("X_")) == MADE
    assert RedisConfig.from_env("Y_", _variables("X_")) == RedisConfig()


def test_from_the_process_s_own_environment(monkeypatch):
    monkeypatch.setenv("BYTEWAX_REDIS_URL", "redis://there")
    monkeypatch.setenv("BYTEWAX_REDIS_POOL_MAX", "9")
    monkeypatch.setenv("BYTEWAX_REDIS_KEY_PREFIX", "")
    monkeypatch.setenv("BYTEWAX_REDIS_NAMESPACE", "somebody else's")
    assert RedisConfig.from_env() == RedisConfig(url="redis://there", pool_max=9)


@pytest.mark.parametrize("text", ["true", "1", "Yes", "ON"])
def test_a_switch_in_the_environment(text):
    environ = {"P_TLS": text, "P_URL": "rediss://there"}
    assert RedisConfig.from_env("P_", environ).tls is True
    assert RedisConfig.from_env("P_", {"P_TLS": "off"}).tls is False


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("POOL_MAX", "many", "whole number"),
        ("POOL_MAX", "5.0", "whole number"),
        ("READ_TIMEOUT", "3s", "seconds"),
        ("READ_TIMEOUT", "nan", "seconds"),
        ("READ_TIMEOUT", "inf", "seconds"),
        ("READ_TIMEOUT", "1e99", "seconds"),
        ("TLS", "maybe", "true or false"),
    ],
)
def test_a_variable_that_can_not_be_read_is_named(name, text, hint):
    with pytest.raises(ConfigError, match=f"BYTEWAX_REDIS_{name} is '{text}'") as caught:
        RedisConfig.from_env(environ={f"BYTEWAX_REDIS_{name}": text})
    assert hint in caught.value.hint


@pytest.mark.parametrize(("name", "text"), [("POOL_MAX", "0"), ("DEFAULT_TTL", "-1")])
def test_a_variable_out_of_range_names_the_field(name, text):
    with pytest.raises(ConfigError, match=f"environment: {name.lower()} is"):
        RedisConfig.from_env(environ={f"BYTEWAX_REDIS_{name}": text})


def _toml(settings):
    def text(value):
        if isinstance(value, bool):
            return str(value).lower()
        return f'"{value}"' if isinstance(value, str) else repr(value)

    return "".join(f"{name} = {text(value)}\n" for name, value in settings.items())


def test_from_a_file_with_every_field(tmp_path):
    path = tmp_path / "redis.toml"
    path.write_text(_toml(EVERY_FIELD))
    assert RedisConfig.from_file(path) == MADE
    assert RedisConfig.from_file(str(path)) == MADE
    path.write_text("")
    assert RedisConfig.from_file(path) == RedisConfig()


def test_from_a_table_of_a_file(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text("other = 1\n[tool.redis-state]\n" + _toml(EVERY_FIELD))
    assert RedisConfig.from_file(path, table="tool.redis-state") == MADE
    with pytest.raises(ConfigError, match=r"no table \[tool.else\]"):
        RedisConfig.from_file(path, table="tool.else")
    with pytest.raises(ConfigError, match=r"no table \[other.more\]"):
        RedisConfig.from_file(path, table="other.more")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pool_maks = 3", "redis.toml: there is no setting 'pool_maks'; did you mean 'pool_max'"),
        ("[redis]\npool_max = 9", r"\[redis\] is a table, not a setting; .*table='redis'"),
        ("pool_max = '9'", "redis.toml: pool_max is '9'; give a whole number"),
        ("pool_max = 9.0", "redis.toml: pool_max is 9.0"),
        ("pool_max = true", "redis.toml: pool_max is True"),
        ("pool_max = 0", "redis.toml: pool_max is 0"),
        ("pool_max = 3", "redis.toml: pool_min is 5 and pool_max is 3"),
        ("read_timeout = true", "redis.toml: read_timeout is True; give seconds"),
        ("read_timeout = '3'", "redis.toml: read_timeout is '3'; give seconds"),
        ("read_timeout = nan", "redis.toml: read_timeout is nan"),
        ("tls = 1", "redis.toml: tls is 1; give true or false"),
        ("key_prefix = 5", "redis.toml: key_prefix is 5; give text"),
        ("url = ['redis://:hush@a']", "redis.toml: url is of type list"),
        ("url = 'redis://:hush@a:0'", "redis.toml: the Redis URL"),
        ("url = {hush = 1}", "redis.toml: url is of type dict"),
        ("url = 'redis://:hush@a", "is not a TOML file"),
        ("hush", "is not a TOML file"),
    ],
)
def test_a_file_that_can_not_be_right_says_where(tmp_path, text, what):
    path = tmp_path / "redis.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        RedisConfig.from_file(path)
    assert "hush" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: the file can't be read: No such file"):
        RedisConfig.from_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="can't be read"):
        RedisConfig.from_file(tmp_path)
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not a TOML file"):
        RedisConfig.from_file(tmp_path / "odd.toml")


# --- call by call


def test_the_builder_has_a_call_for_every_field():
    built = (
        RedisConfig.builder()
        .url("rediss://there:7000/3?ssl_password=hush")
        .key_prefix("x:")
        .default_ttl(timedelta(hours=1))
        .pool_size(min=1, max=2)
        .timeouts(connect=timedelta(milliseconds=250), read=2 * SECOND, write=2 * SECOND)
        .retries(attempts=0, base=timedelta(milliseconds=500), max=timedelta(milliseconds=1500))
        .cluster_mode(False)
        .tls(True)
        .pipeline_batch_size(7)
        .credentials("hush:get")
        .build()
    )
    assert built == MADE


def test_what_the_builder_is_not_told_has_its_default():
    assert RedisConfig.builder().build() == RedisConfigBuilder().build() == RedisConfig()
    assert RedisConfig.builder().urls("redis://a").build() == RedisConfig(url="redis://a")
    assert RedisConfig.builder().retries(5).build() == RedisConfig(retry_attempts=5)


def test_the_builder_s_last_word_counts():
    builder = RedisConfig.builder().key_prefix("a:").key_prefix("b:")
    first = builder.build()
    assert first.key_prefix == "b:"
    assert builder.key_prefix("c:").build().key_prefix == "c:"
    assert first.key_prefix == "b:"


def test_tls_in_the_builder_moves_the_default_url_and_no_other():
    assert RedisConfig.builder().tls().build().url == "rediss://localhost:6379"
    assert RedisConfig.builder().tls(False).build().url == "redis://localhost:6379"
    with pytest.raises(ConfigError, match="tls is True and url is redis://there"):
        RedisConfig.builder().url("redis://there").tls().build()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda b: b.pool_size(9, 3), "pool_min is 9 and pool_max is 3"),
        (lambda b: b.timeouts(SECOND, SECOND, 2 * SECOND), "read_timeout .* write_timeout"),
        (lambda b: b.timeouts(5, 3, 3), "connect_timeout is 5"),
        (lambda b: b.url("unix:///s").cluster_mode(), "cluster_mode is True"),
        (lambda b: b.url("http://there"), "scheme 'http'"),
        (lambda b: b.urls("http://there"), "scheme 'http'"),
    ],
)
def test_the_builder_checks_when_it_builds(call, what):
    builder = call(RedisConfig.builder())
    with pytest.raises(ConfigError, match=what):
        builder.build()


def test_the_builder_shows_no_secret():
    builder = RedisConfig.builder().url("redis://:hush@there").pool_size(1, 2)
    assert "hush" not in repr(builder)
    assert "pool_max=2" in repr(builder)
