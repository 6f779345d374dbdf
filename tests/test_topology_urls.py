"""URLs of Sentinels and of clusters: what is read, what is refused, and what is never shown."""

from __future__ import annotations

import pytest

from bytewax_redis_state import RedisConfig
from bytewax_redis_state.config.topology import topology_of
from bytewax_redis_state.errors import ConfigError

SECRET = "geheim"


def test_a_sentinel_url_is_taken_apart():
    url = f"redis+sentinel://me:{SECRET}@one:1,two,[::1]:3/my%20home/4?sentinel_password={SECRET}"
    topology = topology_of(url)
    assert topology.kind == "sentinel"
    assert [str(host) for host in topology.hosts] == ["one:1", "two:26379", "[::1]:3"]
    assert topology.service == "my home"
    assert topology.server_url == f"redis://me:{SECRET}@one:1/4"
    assert topology.sentinel_login == (("password", SECRET),)
    assert topology.address == "redis+sentinel://one:1,two:26379,[::1]:3/my%20home/4"


def test_a_cluster_url_is_taken_apart():
    topology = topology_of(f"rediss+cluster://me:{SECRET}@one:1,two?ssl_cert_reqs=none")
    assert topology.kind == "cluster"
    assert [str(host) for host in topology.hosts] == ["one:1", "two:6379"]
    assert topology.server_url == f"rediss://me:{SECRET}@one:1?ssl_cert_reqs=none"
    assert topology.address == "rediss+cluster://one:1,two:6379"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis+sentinel://h:1", "does not name the service"),
        ("redis+sentinel://h:1/", "does not name the service"),
        ("redis+sentinel:///home", "names no host"),
        ("redis+sentinel://h:1/home/one", "has database 'one'"),
        ("redis+sentinel://h:1/home/1/2", "has database '1/2'"),
        ("redis+sentinel://h:1,/home", "has the host ''"),
        ("redis+sentinel://h:one/home", "has the host 'h:one'"),
        ("redis+cluster://h:1/3", "names database 3"),
        ("redis+cluster://h:1?db=3", "names database 3"),
        ("redis+cluster://h:1/home", "has database 'home'"),
        ("redis+cluster://", "names no host"),
        ("redis+cluster://h:0", "has the host 'h:0'"),
        ("redis+mars://h", "has scheme 'redis+mars'"),
        ("unix+cluster:///s", "has scheme 'unix+cluster'"),
    ],
)
def test_what_can_not_be_right_is_refused_in_one_line(url, what):
    with pytest.raises(ConfigError) as caught:
        RedisConfig(url=url)
    assert what in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://me:{SECRET}@h:1",
        f"redis+sentinel://me:{SECRET}@h:1/home/x",
        f"redis+sentinel://me:x/{SECRET}@h:1/home",
        f"redis+sentinel://me:x?{SECRET}@h:1/home",
        f"redis+sentinel://me:x#{SECRET}@h:1/home",
        f"redis+sentinel://me:{SECRET}@h:1,h:x/home",
        f"redis+cluster://me:{SECRET}@h:1/3",
        f"redis+cluster://me:x/{SECRET}@h:1",
        f"redis+cluster://me:x#{SECRET}@h:1",
        f"redis+cluster://me:{SECRET}@h:x",
        f"redis+cluster://h:x?ssl_password={SECRET}",
    ],
)
def test_an_error_shows_no_secret(url):
    with pytest.raises(ConfigError) as caught:
        RedisConfig(url=url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://me:{SECRET}@h:1/home?sentinel_password={SECRET}",
        f"redis+cluster://me:{SECRET}@h:1?ssl_password={SECRET}",
    ],
)
def test_settings_show_no_secret(url):
    config = RedisConfig(url=url)
    assert SECRET not in repr(config) + config.address + repr(config.topology)


def test_cluster_mode_and_a_cluster_url_mean_the_same():
    by_url = RedisConfig(url="redis+cluster://h:1")
    assert RedisConfig(url="redis://h:1", cluster_mode=True) == by_url
    assert by_url.cluster_mode
    assert by_url.topology.kind == "cluster"
    with pytest.raises(ConfigError, match="cluster_mode is True and url is redis\\+sentinel"):
        RedisConfig(url="redis+sentinel://h/home", cluster_mode=True)


def test_tls_may_be_insisted_on():
    assert RedisConfig(url="rediss+cluster://h", tls=True).tls
    with pytest.raises(ConfigError, match="tls is True"):
        RedisConfig(url="redis+sentinel://h/home", tls=True)


def test_the_builder_makes_a_cluster_of_several_urls():
    config = (
        RedisConfig.builder().urls(f"redis://me:{SECRET}@a:1", f"redis://me:{SECRET}@b").build()
    )
    assert config == RedisConfig(url=f"redis+cluster://me:{SECRET}@a:1,b")
    with pytest.raises(ConfigError, match="not nodes of one cluster") as caught:
        RedisConfig.builder().urls(f"redis://me:{SECRET}@a", "redis://b")
    assert SECRET not in str(caught.value)
