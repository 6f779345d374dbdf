"""The client on real servers: what it refuses, how it fails, that it sends a command once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis.utils

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import (
    ConfigError,
    ServerAccessError,
    ServerUnavailableError,
    StateError,
)
from bytewax_redis_state.server.client import CLIENT_NAME, Client, address_of, connect
from bytewax_redis_state.server.translation import translated


def one_line(error: StateError) -> str:
    text = str(error)
    assert "\n" not in text
    assert error.hint
    return text


class CuttingProxy:
    """Pass bytes on to a server; after the first ``INCR`` has been passed on, cut the line."""

    def __init__(self, port: int) -> None:
        self.incrs = 0
        self.connections = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            while request := near.recv(65536):
                far.sendall(request)
                answer = far.recv(65536)
                if b"INCR" in request:
                    self.incrs += 1
                    return
                near.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(redis_url: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(int(redis_url.rsplit(":", 1)[1].split("/")[0]))
    yield proxy
    proxy.close()


def test_replies_are_bytes_parsed_by_hiredis(client: Client) -> None:
    client.set("key", "value")
    assert client.get("key") == b"value"
    assert redis.utils.HIREDIS_AVAILABLE


def test_it_shows_its_name_in_the_client_list(client: Client) -> None:
    assert client.client_getname() in (CLIENT_NAME, CLIENT_NAME.encode())
    mine = next(c for c in client.client_list() if int(c["id"]) == client.client_id())
    assert mine.get("resp", "2") == "2"


def test_a_command_whose_answer_is_lost_is_sent_once(
    proxy: CuttingProxy, redis_url: str, client: Client
) -> None:
    database = redis_url.rsplit("/", 1)[1]
    cut = connect(RedisConfig(url=f"redis://127.0.0.1:{proxy.port}/{database}"))
    before = proxy.connections

    with pytest.raises(ServerUnavailableError), translated(address_of(cut)):
        cut.incr("counter")

    assert client.get("counter") == b"1"
    assert proxy.incrs == 1
    assert proxy.connections == before
    cut.close()


# Busy without asking for the time, which stands still in scripts of newer servers.
SLOW_INCR = """
redis.call('INCR', KEYS[1])
local sum = 0
for number = 1, 2e8 do
  sum = sum + number % 7
end
"""


def impatient(url: str, milliseconds: int) -> RedisConfig:
    wait = timedelta(milliseconds=milliseconds)
    return RedisConfig(url=url, read_timeout=wait, write_timeout=wait)


def test_a_command_that_takes_too_long_is_sent_once(start_redis: Callable[..., Any]) -> None:
    # On a busy machine the script takes longer than the 5 s after which others are told BUSY.
    url = start_redis("--lua-time-limit", "120000").url
    hasty = connect(impatient(url, milliseconds=300))

    with pytest.raises(ServerUnavailableError) as caught, translated(address_of(hasty)):
        hasty.eval(SLOW_INCR, 1, "counter")

    assert "carried out" in one_line(caught.value)
    patient = connect(RedisConfig(url=url).patient(timedelta(seconds=30)))
    assert patient.get("counter") == b"1"
    assert patient.info("commandstats")["cmdstat_eval"]["calls"] == 1
    patient.close()
    hasty.close()


def test_a_port_where_nobody_listens_is_unavailable(free_port: int) -> None:
    with pytest.raises(ServerUnavailableError) as caught:
        connect(RedisConfig(url=f"redis://:hush@127.0.0.1:{free_port}/0"))
    text = one_line(caught.value)
    assert f"127.0.0.1:{free_port}" in text
    assert "hush" not in text


def test_a_host_without_name_service_is_unavailable() -> None:
    with pytest.raises(ServerUnavailableError, match=r"nowhere\.invalid"):
        connect(RedisConfig(url="redis://nowhere.invalid:6379"))


def test_a_server_that_never_answers_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ServerUnavailableError):
            connect(impatient(url, milliseconds=100))


@pytest.mark.parametrize("login", ["", ":wrong-secret@", "nobody:wrong-secret@"])
def test_wrong_or_missing_credentials_are_an_access_error(
    start_redis: Callable[..., Any], login: str
) -> None:
    port = start_redis("--requirepass", "right-secret").port
    with pytest.raises(ServerAccessError) as caught:
        connect(RedisConfig(url=f"redis://{login}127.0.0.1:{port}/0"))
    assert "secret" not in one_line(caught.value)


def test_a_password_with_reserved_characters_opens_the_door(
    start_redis: Callable[..., Any],
) -> None:
    password = "p@ss/w:rd%"
    port = start_redis("--requirepass", password).port
    url = f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"
    connect(RedisConfig(url=url)).close()


def test_a_password_that_the_server_does_not_want_is_an_access_error(redis_url: str) -> None:
    with pytest.raises(ServerAccessError) as caught:
        connect(RedisConfig(url=redis_url.replace("redis://", "redis://:hush@")))
    assert "hush" not in one_line(caught.value)


def test_a_database_that_is_not_there_is_a_config_error(redis_url: str) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        connect(RedisConfig(url=redis_url.rsplit("/", 1)[0] + "/99999"))


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis-sentinel://a:1"])
def test_an_unsupported_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="scheme"):
        connect(RedisConfig(url=url))


@pytest.mark.parametrize(
    "query",
    [
        "retry_on_timeout=True",
        "decode_responses=True",
        "socket_timeout=1",
        "nonsense=1",
        "db=first",
        "ssl_certfile=cert.pem",
    ],
)
def test_options_in_the_url_that_would_change_its_nature_are_refused(
    redis_url: str, query: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(RedisConfig(url=f"{redis_url}?{query}"))
    one_line(caught.value)


def test_it_knows_its_address(redis_url: str, client: Client) -> None:
    assert address_of(client) == RedisConfig(url=redis_url).address


def test_an_old_server_without_client_setinfo_will_do(
    start_redis: Callable[..., Any], redis_62: Path
) -> None:
    client = connect(RedisConfig(url=start_redis(binary=redis_62).url))
    assert client.ping()
    client.close()


def connections_to(client: Client) -> int:
    return len(client.client_list())


def test_who_needs_one_connection_too_many_waits_for_it(start_redis: Callable[..., Any]) -> None:
    client = connect(RedisConfig(url=start_redis().url, pool_min=1, pool_max=2))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.blpop(["nothing"], timeout=0.05), range(8)))
    assert answers == [None] * 8
    assert connections_to(client) <= 2
    client.close()


def test_who_waits_in_vain_is_told_of_pool_max(redis_url: str) -> None:
    wait = timedelta(milliseconds=100)
    client = connect(RedisConfig(url=redis_url, pool_min=1, pool_max=1, connect_timeout=wait))
    with client.client() as busy:
        assert busy.ping()
        with pytest.raises(ServerUnavailableError) as caught, translated(address_of(client)):
            client.ping()
    assert "pool_max" in one_line(caught.value)
    assert client.ping()
    client.close()


def test_a_url_in_capitals_and_an_ipv6_address_lead_to_the_server(start_redis):
    server = start_redis("--bind", "127.0.0.1", "-::1")
    with connect(RedisConfig(url=f"REDIS://127.0.0.1:{server.port}")) as client:
        assert address_of(client) == f"redis://127.0.0.1:{server.port}/0"
    config = RedisConfig(url=f"redis://[::1]:{server.port}")
    try:
        client = connect(config)
    except ServerUnavailableError:
        pytest.skip("this machine has no IPv6")
    assert address_of(client) == config.address == f"redis://[::1]:{server.port}/0"
    client.close()
