"""Redis's errors as ours: the table is complete, and what real servers say lands in its class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis._parsers import BaseParser

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import (
    ConfigError,
    ServerAccessError,
    ServerError,
    ServerLoginError,
    ServerUnavailableError,
    ServerUnfitError,
    StateError,
)
from bytewax_redis_state.server.client import Client, connect
from bytewax_redis_state.server.translation import BY_CLASS, BY_CODE, translate_error, translated

DRIVER_CLASSES = sorted(
    (
        kind
        for kind in vars(redis.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", DRIVER_CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_redis_py_has_a_rule_of_its_own(kind: type[Exception]) -> None:
    assert kind.__name__ in BY_CLASS


@pytest.mark.parametrize("kind", DRIVER_CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_redis_py_is_caught(kind: type[Exception]) -> None:
    error = kind("1 host:2")
    with pytest.raises(StateError) as caught, translated("redis://host:1/0"):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.hint


def test_every_rule_raises_an_error_about_the_server_or_its_url() -> None:
    for rule in (*BY_CLASS.values(), *BY_CODE.values()):
        assert issubclass(rule.error, ServerError | ConfigError)


def test_other_errors_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), translated("redis://host:1/0"):
        _ = 1 / 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("LOADING Redis is loading the dataset in memory", ServerUnavailableError),
        ("READONLY You can't write against a read only replica.", ServerUnavailableError),
        ("MISCONF Redis is configured to save RDB snapshots", ServerUnavailableError),
        ("OOM command not allowed when used memory > 'maxmemory'.", ServerUnavailableError),
        ("TRYAGAIN Multiple keys request during rehashing of slot", ServerUnavailableError),
        ("CLUSTERDOWN The cluster is down", ServerUnavailableError),
        ("MASTERDOWN Link with MASTER is down", ServerUnavailableError),
        ("BUSY Redis is busy running a script.", ServerUnavailableError),
        ("NOREPLICAS Not enough good replicas to write.", ServerUnavailableError),
        ("NOSCRIPT No matching script.", ServerUnavailableError),
        ("ERR max number of clients reached", ServerUnavailableError),
        ("NOAUTH Authentication required.", ServerLoginError),
        ("WRONGPASS invalid username-password pair", ServerLoginError),
        ("NOPERM this user has no permissions to run the 'get' command", ServerAccessError),
        ("DENIED Redis is running in protected mode", ServerAccessError),
        ("ERR unknown command 'WAITAOF', with args beginning with: ", ServerUnfitError),
        ("ERR unknown subcommand 'x'. Try CLIENT HELP.", ServerUnfitError),
        ("MOVED 3999 127.0.0.1:6381", ServerUnfitError),
        ("ERR DB index is out of range", ConfigError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ServerError),
        ("ERR value is not an integer or out of range", ServerError),
        ("BUSYGROUP Consumer Group name already exists", ServerError),
    ],
)
def test_a_reply_of_the_server_lands_in_its_class(reply: str, expected: type[Exception]) -> None:
    error = translate_error(BaseParser.parse_error(reply), "redis://host:1/0")
    assert type(error) is expected
    assert error.message.startswith("Redis at redis://host:1/0: ")


def test_no_secret_and_no_data_gets_into_a_message(client: Client) -> None:
    pipeline = client.pipeline(transaction=False)
    pipeline.set("key", "hush")
    pipeline.execute_command("INCRBY", "key", "hush")
    with pytest.raises(ServerError) as caught, translated("redis://me:hush@host:1/0"):
        pipeline.execute()
    assert "hush" not in str(caught.value)
    assert "not an integer" in str(caught.value)

    with pytest.raises(ServerUnfitError) as unknown, translated("redis://host:1/0"):
        client.execute_command("NOSUCHTHING", "hush\nhush")
    assert "hush" not in str(unknown.value)
    assert "NOSUCHTHING" in str(unknown.value)


WRITE = "return redis.call('SET', KEYS[1], ARGV[1])"


@pytest.fixture(params=["this", "6.2"])
def any_binary(request: pytest.FixtureRequest) -> Path:
    name = "server_binary" if request.param == "this" else "redis_62"
    return request.getfixturevalue(name)


def test_full_memory_is_told_also_from_within_a_script(
    start_redis: Callable[..., Any], any_binary: Path
) -> None:
    client = connect(RedisConfig(url=start_redis("--maxmemory", "1", binary=any_binary).url))
    for write in (lambda: client.set("k", "v"), lambda: client.eval(WRITE, 1, "k", "v")):
        with pytest.raises(ServerUnavailableError, match="maxmemory <"), translated("redis://h"):
            write()


def test_a_missing_right_is_told_also_from_within_a_script(
    start_redis: Callable[..., Any], any_binary: Path
) -> None:
    server = start_redis(binary=any_binary)
    connect(RedisConfig(url=server.url)).execute_command(
        "ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@all", "-set"
    )
    client = connect(RedisConfig(url=server.url.replace("redis://", "redis://reader:x@")))
    for write in (lambda: client.set("k", "v"), lambda: client.eval(WRITE, 1, "k", "v")):
        with pytest.raises(ServerAccessError, match="ACL SETUSER"), translated("redis://host:1/0"):
            write()


def test_a_command_unknown_within_a_script_is_told(
    start_redis: Callable[..., Any], any_binary: Path
) -> None:
    client = connect(RedisConfig(url=start_redis(binary=any_binary).url))
    with pytest.raises(ServerUnfitError), translated("redis://host:1/0"):
        client.eval("return redis.call('NOSUCHTHING')", 0)
