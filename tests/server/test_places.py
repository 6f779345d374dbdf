"""The whole path over TLS with client certificates, and over a Unix socket as a user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
import redis

from bytewax_redis_state import RedisStateBackend
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ServerError, ServerUnavailableError
from bytewax_redis_state.server.client import connect
from tests.ports import free_ports
from tests.run.conftest import Runner, Sums, expected, kill_and_resume
from tests.servers.certificates import Authority
from tests.servers.programs import find_program

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
Start = Callable[..., object]


class Secured:
    """A server that talks TLS only to those whose certificate its authority has signed.

    It has a plain port too, to see that it is up.
    """

    def __init__(self, start_redis: Start, folder: Path) -> None:
        binary = find_program("redis-7.0")
        if binary is None:
            pytest.skip("no redis-server that is built with TLS")
        self.authority = Authority(folder)
        self.other = Authority(folder, "other")
        own, (self.port,) = self.authority.issue("server"), free_ports(1)
        self.plain = start_redis(
            *("--tls-port", str(self.port), "--tls-auth-clients", "yes"),
            *("--tls-cert-file", str(own.cert), "--tls-key-file", str(own.key)),
            *("--tls-ca-cert-file", str(self.authority.ca)),
            binary=binary,
        )

    def url(self, **files: object) -> str:
        given = {"ssl_ca_certs": self.authority.ca} | files
        query = urlencode({name: str(path) for name, path in given.items()})
        return f"rediss://127.0.0.1:{self.port}/0?{query}"

    def url_of(self, who) -> str:
        return self.url(ssl_certfile=who.cert, ssl_keyfile=who.key)


@pytest.fixture
def secured(start_redis, tmp_path) -> Secured:
    return Secured(start_redis, tmp_path)


def over_tls(start_redis: Start, folder: Path) -> str:
    secured = Secured(start_redis, folder)
    return secured.url_of(secured.authority.issue("client"))


def over_a_socket(start_redis: Start, folder: Path) -> str:
    server = start_redis("--unixsocket", str(folder / "redis.sock"), "--unixsocketperm", "700")
    with redis.Redis.from_url(server.url) as admin:
        rules = ("on", ">sesame", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "runner", *rules)
        admin.execute_command("ACL", "SETUSER", "default", "off")
    return f"unix://runner:sesame@{folder / 'redis.sock'}?db=7"


@pytest.mark.parametrize("place", [over_tls, over_a_socket])
def test_a_flow_is_killed_and_goes_on_and_its_state_is_verified(
    place, start_redis, tmp_path, eventually
):
    url = place(start_redis, tmp_path)
    with Runner(url, tmp_path) as run:
        with connect(RedisConfig(url=url)) as client:
            sums = Sums(client)
            killed = kill_and_resume(run, sums, *FAST, items=300, epochs=12)
            assert "sesame" not in killed.stderr
        doctor = [SCRIPT, "doctor", "--verify", "numbers", "--redis", url]
        assert "sound" in subprocess.run(doctor, capture_output=True, text=True, check=True).stdout
        with RedisStateBackend(RedisConfig(url=url)) as backend:
            backend.put("k", [1])
            assert backend.get("k") == [1]
            assert backend.health().healthy


def refused(url: str) -> ServerError:
    with pytest.raises(ServerUnavailableError) as caught:
        connect(
            RedisConfig(
                url=url, read_timeout=timedelta(seconds=2), write_timeout=timedelta(seconds=2)
            )
        )
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_what_is_wrong_with_a_certificate_is_one_line_that_says_what_to_do(secured):
    client = secured.authority.issue("client")
    connect(RedisConfig(url=secured.url_of(client))).close()
    own = {"ssl_certfile": client.cert, "ssl_keyfile": client.key}
    wrong_authority = refused(secured.url(**own, ssl_ca_certs=secured.other.ca))
    assert "ssl_ca_certs=… with the authority" in wrong_authority.hint
    other_host = refused(secured.url_of(client).replace("127.0.0.1", "localhost"))
    assert "a host name that is in the certificate" in other_host.hint
    foreign = secured.other.issue("foreign")
    expired = secured.authority.issue("expired", timedelta(days=-1))
    for url in (secured.url(), secured.url_of(foreign), secured.url_of(expired)):
        # Whether its word or the end of the connection comes first is up to the kernel.
        assert "ssl_certfile=… and ssl_keyfile=… that" in refused(url).hint
    mixed = refused(secured.url(ssl_certfile=client.cert, ssl_keyfile=expired.key))
    assert "the key of ssl_certfile" in mixed.hint
    missing = refused(secured.url(**own | {"ssl_certfile": "/nowhere.crt"}))
    assert "check the path of the socket and the paths in ssl_" in missing.hint
    assert "check the path of the socket" in refused("unix:///nowhere/redis.sock").hint


def test_a_certificate_that_is_renewed_on_the_disk_is_used_by_the_next_connection(secured):
    expired = secured.authority.issue("client", timedelta(days=-1))
    url = secured.url_of(expired)
    refused(url)
    secured.authority.issue("client")
    connect(RedisConfig(url=url)).close()


@pytest.mark.long
def test_databases_keep_their_flows_apart(start_redis, tmp_path):
    server = start_redis()
    for number, items in (("0", "20"), ("5", "30")):
        run = Runner(server.url[:-1] + number, tmp_path)
        assert run(*FAST, ITEMS=items).returncode == 0
    for number, items in (("0", 20), ("5", 30)):
        with connect(RedisConfig(url=server.url[:-1] + number)) as client:
            assert Sums(client).state() == expected(items)
