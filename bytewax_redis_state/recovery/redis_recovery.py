"""RedisRecovery: what users call to run a flow with its state in Redis."""

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

    :arg redis: A URL, a :class:`RedisConfig`, or ``None``: then ``BYTEWAX_REDIS_URL`` counts, and
        without it an embedded server is started in ``./.bytewax-redis-state``. Recovery waits at
        least 30 s for a reply, also where the configuration says less: its scripts are long.
    :arg settings: Any field of :class:`RecoverySettings` by its name, such as ``namespace`` or
        ``checkpoint_interval``.
    :raises ConfigError: If a setting can't be right.
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
            name_of(url.credentials)  # refuses what the replicator could not ask
        object.__setattr__(self, "redis", url)
        try:
            object.__setattr__(self, "settings", RecoverySettings(**settings))
        except TypeError as error:
            raise ConfigError(f"RedisRecovery: {error}", "see RecoverySettings") from None
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
        """Prepare a run that the caller starts: a context manager.

        Entering it resumes the flow; ``session.flow`` and ``session.recovery_config`` go to
        ``run_main`` or ``cluster_main``; leaving it drains. All state is exact on resume; output
        since the last committed epoch is put out again.

        :arg flow: The user's flow; left untouched.
        :arg worker_count: Workers of this process.
        :arg process_id: Number of this process in the cluster.
        :arg process_count: Number of processes.
        :arg addresses: As given to Bytewax; keeps two clusters apart.
        :returns: The session.
        :raises ConfigError: If several processes are to share an embedded server.
        """
        if not 0 <= process_id < process_count or worker_count < 1:
            raise ConfigError(
                f"process {process_id} of {process_count} with {worker_count} workers",
                "process IDs count from 0, and each process has at least one worker",
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
        """Resume a flow, run it to its end, and drain.

        :arg flow: The user's flow; left untouched.
        :arg epoch_interval: Time between two commits; what a crash may replay.
        :arg workers_per_process: Workers of this process.
        :arg process_id: Number of this process, with ``addresses``.
        :arg addresses: Of all processes of the cluster, as Bytewax takes them.
        :returns: What the run went on from.
        :raises StateError: If it can't start, or has to stop.
        """
        session = self.session(
            flow, workers_per_process, process_id or 0, len(addresses or ()) or 1, addresses or ()
        )
        # Not ``or``: an interval of zero is one epoch a batch.
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
