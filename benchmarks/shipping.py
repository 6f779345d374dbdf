"""The speed at which a replicator ships rows, and its lag behind the close of an epoch.

``python -m benchmarks.shipping [--rounds N] [--json FILE]``

A session starts a replicator as for any run, but no engine: this writes its rows, in the engine's
own statements. To measure the drain the replicator is stopped while the outbox is filled.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import sqlite3
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.flows import Load, sums
from benchmarks.server import benchmark_server
from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.codec.delta import pack_delta
from bytewax_redis_state.codec.envelope import MSGPACK, seal_plain
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.dataflow.shards.shard_names import shard_name
from bytewax_redis_state.dataflow.steps import state_steps
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.outbox.outbox import part_file
from bytewax_redis_state.server.client import connect

SHARDS = 64
DRAIN_KEYS_PER_SECOND = 500_000
LAG_P99_MS = 50.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Drain:
    """How an outbox full of epochs went to Redis.

    :arg changed: Keys changed in each epoch.
    :arg rate: Changed keys a second.
    :arg cpu: Microseconds of the replicator's CPU for each changed key.
    :arg peak_mib: Most memory that the replicator had.
    """

    changed: int
    rate: float
    cpu: float
    peak_mib: float


@dataclass(frozen=True)
class Lag:
    """Milliseconds from the commit of an epoch in the outbox to its rows in the journal.

    :arg changed: Keys changed in each epoch.
    """

    changed: int
    p50: float
    p99: float


class OutboxWriter:
    """The outbox of a session, written as the engine does, and its progress in Redis.

    :arg url: Of the server.
    :arg namespace: Of the flow.
    :arg folder: Where the session's recovery partition is.
    :arg pid: Of the replicator.
    """

    def __init__(self, url: str, namespace: str, folder: Path, pid: int) -> None:
        self._client = connect(RedisConfig(url=url))
        self._progress = FlowKeys(namespace, "sums").progress(0, 1)
        self._db = sqlite3.connect(part_file(folder, 0), isolation_level=None)
        (self._step,) = (s.engine_id for s in state_steps(_flow()) if s.kind == "keyed")
        self._names = [shard_name(shard, 1) for shard in range(SHARDS)]
        self.epoch = 0
        self.pid = pid

    def write(self, deltas: Mapping[int, bytes]) -> None:
        """Write the next epoch's rows and its commit, in two transactions as the engine does."""
        self.epoch += 1
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, ?, ?, ?)",
            [
                (self._step, self._names[shard], self.epoch, pickle.dumps(delta))
                for shard, delta in deltas.items()
            ],
        )
        self._db.execute("COMMIT")
        self._db.execute(
            "INSERT INTO commits (part_index, commit_epoch) VALUES (0, ?) "
            "ON CONFLICT (part_index) DO UPDATE SET commit_epoch = EXCLUDED.commit_epoch",
            (self.epoch,),
        )

    @property
    def shipped(self) -> int:
        """The last epoch that is in the journal."""
        return int(self._client.hget(self._progress, "epoch") or 1) - 1

    def wait(self, seconds: float = 120.0) -> None:
        """Wait until all is in the journal."""
        deadline = time.monotonic() + seconds
        while self.shipped < self.epoch:
            if time.monotonic() > deadline:
                raise RuntimeError(f"epoch {self.shipped} of {self.epoch} after {seconds} s")
            time.sleep(0.002)

    @property
    def cpu(self) -> float:
        """CPU seconds that the replicator has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def peak_mib(self) -> float:
        """Most memory that the replicator had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return peak / 1024


def _flow() -> object:
    return sums(Load(events=0, keys=1, hot=0, epoch=1.0))


@contextmanager
def ledger(url: str) -> Iterator[OutboxWriter]:
    """Start a replicator for as long as the block lasts."""
    namespace = f"shipping-{time.time_ns()}"
    # No checkpoint while shipping is measured: folding is a benchmark of its own.
    recovery = RedisRecovery(url, namespace=namespace, checkpoint_interval=timedelta(hours=1))
    with recovery.session(_flow()) as session:
        assert session.recovery_config is not None
        assert session.replicator_pid is not None
        yield OutboxWriter(
            url, namespace, Path(session.recovery_config.db_dir), session.replicator_pid
        )


def deltas(changed: int) -> dict[int, bytes]:
    """Make the deltas of an epoch in which so many keys have changed."""
    changes: dict[int, dict[str, bytes | None]] = defaultdict(dict)
    for number in range(changed):
        key = f"key-{number:07d}"
        changes[shard_of(key, SHARDS)][key] = seal_plain(key, MSGPACK, b"\xce\x00\x01\x02\x03")
    return {shard: pack_delta(changed) for shard, changed in changes.items()}


def drain(url: str, changed: int, keys: int) -> Drain:
    """Fill an outbox while the replicator stands still, and see how soon it is empty."""
    epochs, made = max(1, keys // changed), deltas(changed)
    with ledger(url) as book:
        book.write(made)
        book.wait()
        os.kill(book.pid, signal.SIGSTOP)
        try:
            for _ in range(epochs):
                book.write(made)
            cpu, started = book.cpu, time.monotonic()
        finally:
            os.kill(book.pid, signal.SIGCONT)
        book.wait()
        seconds = time.monotonic() - started
        count = epochs * changed
        return Drain(changed, count / seconds, (book.cpu - cpu) / count * 1e6, book.peak_mib)


def lag(url: str, changed: int, epochs: int, interval: float) -> Lag:
    """Close epochs at an interval, and see when each is in the journal."""
    made = deltas(changed)
    arrived: dict[int, float] = {}
    closed: dict[int, float] = {}
    with ledger(url) as book:
        book.write(made)
        book.wait()
        first = book.epoch

        def look() -> None:
            seen = first
            while seen < first + epochs:
                now, at = book.shipped, time.monotonic()
                arrived.update(dict.fromkeys(range(seen + 1, now + 1), at))
                seen = max(seen, now)
                time.sleep(0.001)

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        for number in range(epochs):
            time.sleep(interval * (0.75 + (number % 7) / 12))  # not in step with any poll
            book.write(made)
            closed[book.epoch] = time.monotonic()
        watch.join(60)
        lags = sorted((arrived[epoch] - at) * 1000 for epoch, at in closed.items())
    return Lag(changed, statistics.median(lags), lags[max(0, -(-len(lags) * 99 // 100) - 1)])


def measure(rounds: int) -> tuple[list[Drain], list[Lag]]:
    """Measure each size in turn, on one server."""
    drains, lags = [], []
    with benchmark_server() as url:
        client = connect(RedisConfig(url=url))
        for number in range(rounds):
            for changed in (1_000, 100_000):
                drains.append(drain(url, changed, 2_000_000))
                client.flushdb()
                epochs, interval = (200, 0.1) if changed < 10_000 else (20, 0.5)
                lags.append(lag(url, changed, epochs, interval))
                client.flushdb()
                print(f"round {number + 1}: {drains[-1]} {lags[-1]}", file=sys.stderr)
    return drains, lags


def table(drains: list[Drain], lags: list[Lag]) -> Table:
    """Render medians."""
    made = Table("changed keys an epoch", "keys/s", "CPU/key", "peak", "lag p50", "lag p99")
    for changed in sorted({one.changed for one in drains}):
        of = [one for one in drains if one.changed == changed]
        late = [one for one in lags if one.changed == changed]
        made.add_row(
            f"{changed:,}",
            f"{statistics.median(one.rate for one in of):,.0f}",
            f"{statistics.median(one.cpu for one in of):.2f} µs",
            f"{statistics.median(one.peak_mib for one in of):.0f} MiB",
            f"{statistics.median(one.p50 for one in late):.1f} ms",
            f"{statistics.median(one.p99 for one in late):.1f} ms",
        )
    return made


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shipping", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    drains, lags = measure(args.rounds)
    Console().print(table(drains, lags))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"drain": [asdict(d) for d in drains], "lag": [asdict(one) for one in lags]}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
