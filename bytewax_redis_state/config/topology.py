"""The servers behind a URL: a single one, a primary that Sentinels name, or a cluster.

``redis+sentinel://[user:password@]host[:port][,…]/service[/db]`` and
``redis+cluster://[user:password@]host[:port][,…]``, both also with ``rediss``, are turned into URLs
of single servers here, because the client library knows no others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from bytewax_redis_state.config.urls import address_in, checked_url, database_in, masked
from bytewax_redis_state.errors import ConfigError

__all__ = ["Host", "Topology", "topology_of"]

Kind = Literal["single", "sentinel", "cluster"]

_PORTS = {"sentinel": 26379, "cluster": 6379}
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
_HINTS = {
    "sentinel": "write it as redis+sentinel://host:port[,host:port…]/service[/db]",
    "cluster": "write it as redis+cluster://host:port[,host:port…]",
}


class Host(NamedTuple):
    """Host name and port of one server."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Topology:
    """The servers behind a URL.

    :arg kind: How they belong together.
    :arg address: Their address, without secrets.
    :arg server_url: URL of the first host, with user, password and options for every server. With
        Sentinels its host is not used: they name the host.
    :arg hosts: Sentinels, or some nodes of the cluster; empty for a single server.
    :arg service: The name under which the Sentinels know the primary.
    :arg sentinel_login: User and password for the Sentinels, if they want any.
    """

    kind: Kind
    address: str
    server_url: str
    hosts: tuple[Host, ...] = ()
    service: str = ""
    sentinel_login: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Topology({self.address!r})"


class _Parts(NamedTuple):
    scheme: str
    login: str
    hosts: tuple[Host, ...]
    path: str
    query: str


@lru_cache(maxsize=64)
def topology_of(url: str) -> Topology:
    """Read a URL.

    :arg url: Of a single server, of Sentinels or of a cluster.
    :returns: The servers behind it.
    :raises ConfigError: If the URL does not parse, or contradicts itself.
    """
    scheme = url.partition("://")[0] if isinstance(url, str) else ""
    base, _, kind = scheme.partition("+")
    if kind == "sentinel" and base in ("redis", "rediss"):
        return _sentinel(url, _parts(url, "sentinel"))
    if kind == "cluster" and base in ("redis", "rediss"):
        return _cluster(url, _parts(url, "cluster"))
    return Topology("single", address_in(checked_url(url)), url)


def _parts(url: str, kind: str) -> _Parts:
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    base = scheme.partition("+")[0]
    if "@" in path or "@" in query or not hosts:
        checked_url(f"{base}://{rest}")  # raises the error that says what is wrong
    found = tuple(_host(url, base, host, kind) for host in hosts.split(","))
    return _Parts(base, login + at, found, path.rstrip("/"), query)


def _host(url: str, base: str, text: str, kind: str) -> Host:
    try:
        parts = checked_url(f"{base}://{text}")
    except ConfigError:
        parts = None
    if parts is None or not parts.hostname or parts.path or parts.query:
        raise ConfigError(
            f"the Redis URL {masked(url)!r} has the host {text!r}, which is not HOST or HOST:PORT",
            _HINTS[kind],
        )
    return Host(parts.hostname, parts.port or _PORTS[kind])


def _sentinel(url: str, parts: _Parts) -> Topology:
    service, _, database = parts.path.partition("/")
    if not service:
        raise ConfigError(
            f"the Redis URL {masked(url)!r} does not name the service of the Sentinels",
            _HINTS["sentinel"],
        )
    if not re.fullmatch(r"\d*", database):
        raise ConfigError(
            f"the Redis URL {masked(url)!r} has database {database!r}", _HINTS["sentinel"]
        )
    options = parse_qsl(parts.query, keep_blank_values=True)
    login = tuple((_OF_SENTINELS[name], text) for name, text in options if name in _OF_SENTINELS)
    server_url = _server_url(parts, database, [o for o in options if o[0] not in _OF_SENTINELS])
    hosts = ",".join(map(str, parts.hosts))
    number = database_in(checked_url(server_url)) or "0"
    address = f"{parts.scheme}+sentinel://{hosts}/{service}/{number}"
    return Topology("sentinel", address, server_url, parts.hosts, unquote(service), login)


def _cluster(url: str, parts: _Parts) -> Topology:
    server_url = _server_url(parts, parts.path, parse_qsl(parts.query, keep_blank_values=True))
    database = database_in(checked_url(server_url))
    if database not in (None, "0"):
        raise ConfigError(
            f"the Redis URL {masked(url)!r} names database {database}",
            "remove the database: a Redis Cluster has database 0 only",
        )
    address = f"{parts.scheme}+cluster://{','.join(map(str, parts.hosts))}"
    return Topology("cluster", address, server_url, parts.hosts)


def _server_url(parts: _Parts, database: str, options: list[tuple[str, str]]) -> str:
    path = f"/{database}" if database else ""
    query = f"?{urlencode(options)}" if options else ""
    url = f"{parts.scheme}://{parts.login}{parts.hosts[0]}{path}{query}"
    checked_url(url)
    return url
