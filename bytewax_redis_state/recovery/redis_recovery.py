"""RedisRecovery: the class that users call to run a flow with its state in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypedDict

from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow
from typing_extensions import Unpack

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.config import (
    RecoverySettings,
    RedisConfig,
    Secrets,
    credentials_from_env,
    redis_url_from_env,
)
from bytewax_redis_state.errors import ConfigError
from bytewax_redis_state.recovery.reporter import LogReporter, Reporter, Resumed
from bytewax_redis_state.recovery.session import Session
from bytewax_redis_state.recovery.start.join_barrier import ClusterShape
from bytewax_redis_state.server.credentials import name_of

__all__ = ["RecoveryKeywords", "RedisRecovery"]

_EPOCH_INTERVAL = timedelta(seconds=10)  # Bytewax's own default


class RecoveryKeywords(TypedDict, total=False):
    """The fields of :class:`RecoverySettings`, as keywords: a type checker finds a wrong one."""

    namespace: str
    checkpoint_interval: timedelta
    scratch: Path
    shards: int
    allow_pickle: bool
    allow_imports: frozenset[str]
    compression: Literal["zstd", "zlib"] | None
    secrets: Secrets
    take_over: bool
    drop_steps: frozenset[str]
    rename_steps: Mapping[str, str]
    drop_partitions: frozenset[str]
    join_timeout: timedelta
    drain_timeout: timedelta
    retention: Mapping[str, timedelta | None]
    window_grace: timedelta
    downtime_allowance: timedelta
    on_expired: Literal["continue", "fail"]
    durability: str
    max_lag: int | None
    fast_paths: bool


@dataclass(frozen=True)
class RedisRecovery:
    """Keep a flow's state in Redis instead of in local files.

    :arg redis: A URL or a :class:`RedisConfig`. Where it is ``None``, ``BYTEWAX_REDIS_URL`` counts,
        and without that variable an embedded server is started in ``./.bytewax-redis-state``.
        Recovery waits at least 30 s for a reply, even where the configuration says less, because
        its scripts may take long.
    :arg reporter: Tells a person what a run does; without it, the log is told.
    :arg settings: Any field of :class:`RecoverySettings` by its name, such as ``namespace`` or
        ``checkpoint_interval``.
    :raises ConfigError: If a setting can't be right; names the field and the value.
    """

    redis: RedisConfig | None
    settings: RecoverySettings
    reporter: Reporter = field(compare=False, repr=False)

    def __init__(
        self,
        redis: str | RedisConfig | None = None,
        *,
        reporter: Reporter | None = None,
        **settings: Unpack[RecoveryKeywords],
    ) -> None:
        url = redis or redis_url_from_env()
        if isinstance(url, str):
            url = RedisConfig(url=url, credentials=credentials_from_env())
        if url is not None:
            # Refuses a callback that can't be imported by its name: the replicator is another
            # process, which may outlive this one, and asks for credentials by itself.
            name_of(url.credentials)
        object.__setattr__(self, "redis", url)
        try:
            object.__setattr__(self, "settings", RecoverySettings(**settings))
        except TypeError as error:
            raise ConfigError(
                f"RedisRecovery: {error}", "give fields of RecoverySettings as keywords"
            ) from None
        Codec.of_flow(self.settings)  # refuses keys that can't be used, before anything is done
        object.__setattr__(self, "reporter", reporter or LogReporter())

    def session(
        self,
        flow: Dataflow,
        worker_count: int = 1,
        process_id: int = 0,
        process_count: int = 1,
        addresses: Sequence[str] = (),
    ) -> Session:
        """Prepare a run of a flow that the caller starts with ``run_main`` or ``cluster_main``.

        The session is a context manager. On entry it resumes the flow; ``session.flow`` and
        ``session.recovery_config`` are then the arguments for Bytewax. On exit it ships all
        committed changes to Redis. State is exact on resume; outputs since the last committed
        epoch come again.

        :arg flow: The user's flow; left untouched.
        :arg worker_count: Number of workers of this process.
        :arg process_id: Number of this process in the cluster, from 0.
        :arg process_count: Number of processes of the cluster.
        :arg addresses: The addresses that Bytewax gets; they tell two clusters of a flow apart.
        :returns: The session.
        :raises ConfigError: If the numbers can't be right, or several processes would need one
            embedded server.
        """
        if not 0 <= process_id < process_count or worker_count < 1:
            raise ConfigError(
                f"process {process_id} of {process_count} with {worker_count} workers",
                "count processes from 0, and give each process at least one worker",
            )
        if self.redis is None and process_count > 1:
            raise ConfigError(
                f"{process_count} processes can't share an embedded server",
                "give all processes the same Redis URL",
            )
        shape = ClusterShape(process_id, process_count, worker_count, tuple(addresses))
        return Session(self.redis, self.settings, self.reporter, flow, shape)

    def run(
        self,
        flow: Dataflow,
        *,
        epoch_interval: timedelta | None = None,
        workers_per_process: int = 1,
        process_id: int | None = None,
        addresses: Sequence[str] | None = None,
    ) -> Resumed:
        """Resume a flow, run it to its end, and ship all committed changes to Redis.

        :arg flow: The user's flow; left untouched.
        :arg epoch_interval: Time between two commits; a crash repeats about one of them.
        :arg workers_per_process: Number of workers of this process.
        :arg process_id: Number of this process, from 0; with ``addresses``.
        :arg addresses: Addresses of all processes of the cluster, as Bytewax takes them.
        :returns: The epoch and the state that the run resumed from.
        :raises ConfigError: If it is called in another thread than the main thread.
        :raises StateError: If the flow can't start, or has to stop.
        """
        session = self.session(
            flow, workers_per_process, process_id or 0, len(addresses or ()) or 1, addresses or ()
        )
        # Not ``or``: with an interval of zero, each batch is an epoch.
        interval = _EPOCH_INTERVAL if epoch_interval is None else epoch_interval
        with session:
            cli_main(  # type: ignore[no-untyped-call]
                session.flow,
                workers_per_process=workers_per_process,
                process_id=process_id,
                addresses=list(addresses) if addresses is not None else None,
                epoch_interval=interval,
                recovery_config=session.recovery_config,
            )
        return session.resumed
