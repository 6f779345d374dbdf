"""A client of Redis whose replies are bytes, with timeouts, and without retries.

Invariant: a command is sent once. Only its caller knows whether it may be sent again.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.config.topology import Host
from bytewax_redis_state.errors import ConfigError, ServerUnfitError
from bytewax_redis_state.server.cluster_client import ClusterClient
from bytewax_redis_state.server.command_packer import CommandPacker
from bytewax_redis_state.server.credentials import provider_of
from bytewax_redis_state.server.sentinel import (
    Primary,
    PrimaryConnection,
    PrimaryTLSConnection,
)
from bytewax_redis_state.server.translation import translated

__all__ = [
    "CLIENT_NAME",
    "Client",
    "address_of",
    "connect",
    "connection_options",
    "flow_connection_name",
    "flow_in_name",
    "refuse_cluster_node",
    "server_time",
    "servers_of",
]

Client = redis.Redis
CLIENT_NAME = "bytewax-redis-state"
"""The name of our connections in ``CLIENT LIST``, or its beginning."""

_FLOW_STEM = f"{CLIENT_NAME}@"

_OF_THE_URL = {"connection_class", "db", "host", "password", "path", "port", "username"}


def flow_connection_name(namespace: str, flow_id: str) -> str:
    """Make the name of the connections of a flow that runs."""
    return f"{_FLOW_STEM}{quote(namespace, safe='')}/{quote(flow_id, safe='')}"


def flow_in_name(name: str) -> tuple[str, str] | None:
    """Read namespace and flow in the name of a connection; ``None`` in that of another one."""
    namespace, slash, flow_id = name.removeprefix(_FLOW_STEM).partition("/")
    if not name.startswith(_FLOW_STEM) or not slash:
        return None
    return unquote(namespace), unquote(flow_id)


def connection_options(config: RedisConfig, host: Host | None = None) -> dict[str, Any]:
    """Make the arguments for a connection of redis-py; its retries are off.

    :arg config: The settings of the connection.
    :arg host: The node of a cluster; ``None`` for the first one in the URL.
    :returns: Arguments of a connection, and ``connection_class`` unless it is redis-py's default;
        with Sentinels, a class that asks them for the primary.
    :raises ConfigError: If the URL has an option that is a field of ``RedisConfig``.
    """
    topology = config.topology
    options: dict[str, Any] = parse_url(topology.server_url)  # type: ignore[no-untyped-call]
    foreign = [n for n in options if n not in _OF_THE_URL and not n.startswith("ssl_")]
    if foreign:
        raise ConfigError(
            f"the URL of Redis at {config.address} sets {min(foreign)!r}",
            "remove it: a URL may set db and ssl_… only, timeouts are fields of RedisConfig",
        )
    options |= {
        "socket_connect_timeout": config.connect_timeout.total_seconds(),
        "socket_timeout": config.read_timeout.total_seconds(),
        "client_name": CLIENT_NAME,
        "decode_responses": False,
        "health_check_interval": 0,
        "protocol": 2,
        # redis-py's own retries would repeat commands that are not idempotent.
        "retry": Retry(NoBackoff(), 0),
        "credential_provider": provider_of(config.credentials),
    }
    if host is not None:
        options |= {"host": host.name, "port": host.port}
    return _following(config, options) if topology.kind == "sentinel" else options


def _following(config: RedisConfig, options: dict[str, Any]) -> dict[str, Any]:
    primary = Primary(config.topology, options)
    has_tls = options.get("connection_class") is redis.SSLConnection
    kind = PrimaryTLSConnection if has_tls else PrimaryConnection
    return options | {"connection_class": kind, "primary": primary}


def _pool(config: RedisConfig, name: str, host: Host | None = None) -> redis.ConnectionPool:
    try:
        options = connection_options(config, host) | {"client_name": name}
        kind = options.pop("connection_class", redis.Connection)
        kind(**options)  # Connects to nothing yet, but refuses unknown options.
        # Where all are in use it lets callers wait; redis-py's default pool raises at once.
        return redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            max_connections=config.pool_max,
            timeout=config.connect_timeout.total_seconds(),
            connection_class=kind,
            command_packer=CommandPacker(),
            **options,
        )
    except (RedisError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the URL of Redis at {config.address} has an option that can't be used: {error}",
            "remove it: a URL may set db, and with rediss:// also ssl_…",
        ) from None


def _client(config: RedisConfig, name: str) -> Client:
    topology = config.topology
    if topology.kind == "cluster":
        return ClusterClient(
            topology.hosts,
            topology.address,
            lambda host: redis.Redis.from_pool(_pool(config, name, host)),
        )
    return redis.Redis.from_pool(_pool(config, name))


def connect(config: RedisConfig, name: str = CLIENT_NAME) -> Client:
    """Connect to Redis, and check that it answers.

    :arg config: The settings of the connection.
    :arg name: What ``CLIENT LIST`` shows.
    :returns: A client with replies as bytes and without retries; threads may share it.
    :raises ConfigError: If the URL has options that can't be used, or names a database that the
        server does not have.
    :raises ServerUnavailableError: If Redis can't be reached, or is still loading.
    :raises ServerLoginError: If it refuses user or password.
    :raises ServerUnfitError: If the URL is that of a single server, and it is a node of a cluster.
    """
    client = _client(config, name)
    try:
        with translated(config.address):
            client.ping()
            if config.topology.kind == "single":
                refuse_cluster_node(config, _mode_of(client))
    except BaseException:
        client.close()
        raise
    return client


def _mode_of(client: Client) -> str:
    try:
        return str(client.info("server").get("redis_mode", ""))
    except ResponseError:  # the user may not run INFO
        return ""


def refuse_cluster_node(config: RedisConfig, mode: str) -> None:
    """Refuse a node of a cluster: it serves some of the keys only, and redirects all others.

    :arg config: The settings of a connection to a single server.
    :arg mode: The ``redis_mode`` of that server.
    :raises ServerUnfitError: If it is in a cluster.
    """
    if mode == "cluster":
        raise ServerUnfitError(
            f"Redis at {config.address} is a node of a cluster, and the URL is that of a single "
            "server",
            "write the URL as redis+cluster://…",
        )


def servers_of(client: Client) -> list[redis.Redis]:
    """Give a client of each server that takes writes: the one, or all primaries of a cluster.

    :arg client: As ``connect`` made it.
    """
    return client.primaries() if isinstance(client, ClusterClient) else [client]


def address_of(client: Client) -> str:
    """Give the address of a client's Redis, without secrets.

    :arg client: As ``connect`` made it.
    :returns: The same text as the ``address`` of its settings.
    """
    if isinstance(client, ClusterClient):
        return client.address
    options = client.connection_pool.connection_kwargs
    if "primary" in options:
        return str(options["primary"].topology.address)
    database = options.get("db") or 0
    if "path" in options:
        return f"unix://{quote(options['path'])}?db={database}"
    secure = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
    host = Host(options.get("host", "localhost"), options.get("port", 6379))
    return f"{'rediss' if secure else 'redis'}://{host}/{database}"


def server_time(client: redis.Redis) -> int:
    """Ask for the server's time.

    :arg client: To ask.
    :returns: Milliseconds since 1970.
    """
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000
