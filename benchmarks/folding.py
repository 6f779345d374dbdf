"""How fast the journal is folded into the keyed state, beside ``redis-benchmark`` on that server.

``python -m benchmarks.folding [--keys N] [--rounds N] [--json FILE]``

Each round folds a journal of N changed keys, 40 bytes a value, into an empty keyed state, then
another one over it, once without deadlines and once with; and runs ``redis-benchmark -t set -P 16
-c 10 -d 40`` on the same server in between.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.server import benchmark_server
from bytewax_redis_state.codec.delta import pack_delta
from bytewax_redis_state.codec.envelope import MSGPACK, OVERHEAD, seal_plain
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.keys import FlowKeys, shard_of
from bytewax_redis_state.recovery.records.cells import Cell, cells_of
from bytewax_redis_state.recovery.records.fenced_store import FencedStore
from bytewax_redis_state.recovery.records.fold import JournalFold
from bytewax_redis_state.recovery.records.journal import Entry, Journal
from bytewax_redis_state.recovery.records.token import Token, start_id
from bytewax_redis_state.scripts import Scripts
from bytewax_redis_state.server.client import connect

SHARDS = 64
EXPECTED = {"plain": 0.7, "timed": 0.4}
_VALUE_BYTES = 40
_INCARNATION = "b" * 32
_TOKEN = Token(1, start_id())


@dataclass(frozen=True)
class FoldRates:
    """State keys a second of one round.

    :arg new: Folded into nothing.
    :arg plain: Folded over keys that were there.
    :arg timed_new: As ``new``, each with a deadline.
    :arg timed: As ``plain``, each with a deadline.
    :arg redis_benchmark: ``SET`` of 40 bytes by ``redis-benchmark``.
    """

    new: float
    plain: float
    timed_new: float
    timed: float
    redis_benchmark: float


def deltas(keys: int, epoch: int, deadline: int | None) -> Iterator[tuple[int, bytes]]:
    """Give each shard's delta of an epoch in which every key has changed."""
    changes: dict[int, dict[str, bytes | None]] = defaultdict(dict)
    size = _VALUE_BYTES - OVERHEAD - 2 - (0 if deadline is None else 6)
    payload = b"\xc4%c" % size + (b"%d" % epoch).rjust(size)
    for number in range(keys):
        key = f"key-{number:07d}"
        changes[shard_of(key, SHARDS)][key] = seal_plain(key, MSGPACK, payload, deadline)
    for shard, changed in changes.items():
        yield shard, pack_delta(changed)


class Bench:
    """A journal of a flow, and a folder of it.

    :arg url: Of the server.
    :arg keys: Changed in each epoch.
    :arg timed: Whether each state has a deadline.
    """

    def __init__(self, url: str, keys: int, *, timed: bool) -> None:
        self._client = connect(RedisConfig(url=url))
        self._scripts = Scripts(self._client)
        self._keys, self._timed, self._row = keys, timed, 0
        names = FlowKeys(f"bench-{time.time_ns()}", "sums")
        store = FencedStore(self._client, self._scripts, names, _INCARNATION, _TOKEN)
        self._journal = Journal(store, 0)
        cells = cells_of(["sum"], SHARDS)
        timed_steps = {"sum"} if timed else ()
        self._fold = JournalFold(store, 0, cells, timed=timed_steps, offset=10**8)
        self._journal.create(1)
        with self._client.pipeline(transaction=False) as pipe:
            for cell in cells:
                applied = names.applied(cell.step, cell.shard)
                self._scripts.create_cell(applied, _INCARNATION, str(_TOKEN), 0, pipe)
            pipe.execute()

    def rate(self, epoch: int) -> float:
        """Write an epoch's deltas to the journal and fold them; gives keys a second."""
        deadline = int(time.time() * 1000) + 10**7 if self._timed else None
        for shard, delta in deltas(self._keys, epoch, deadline):
            entry = Entry(epoch, self._row + 1, Cell("sum", shard), delta)
            self._journal.append(self._row, self._row + 1, [entry], None)
            self._row += 1
        self._journal.append(self._row, self._row + 1, [], epoch + 1)
        self._row += 1
        started = time.monotonic()
        folded = self._fold.fold(self._journal, epoch - 1, epoch)
        seconds = time.monotonic() - started
        if folded != self._keys:
            raise RuntimeError(f"{folded} keys were folded, {self._keys} have changed")
        return folded / seconds


def benchmark_rate(client: redis.Redis, socket: str, keys: int, *, among: int = 1) -> float:
    """Run ``redis-benchmark`` on the same server; gives its commands a second.

    :arg client: Of the server.
    :arg socket: Of the server.
    :arg keys: How many are set.
    :arg among: How many there are: by default it sets one again and again.
    """
    command = ["redis-benchmark", "-s", socket, "-t", "set", "-P", "16", "-c", "10", "-d", "40"]
    command += ["-r", str(among)] if among > 1 else []
    done = subprocess.run(
        [*command, "-n", str(keys), "--csv"], check=True, capture_output=True, text=True
    )
    if among == 1:
        client.delete("key:__rand_int__")
    rows = list(csv.reader(io.StringIO(done.stdout)))
    return float(rows[-1][1])


def measure(keys: int, rounds: int) -> list[FoldRates]:
    """Fold and run ``redis-benchmark`` in turn, after a warm-up."""
    figures = []
    with benchmark_server() as url:
        client = connect(RedisConfig(url=url))
        for number in range(rounds + 1):
            rates = _round(client, url, keys if number else keys // 10)
            if number:
                figures.append(rates)
                print(f"round {number}: {rates}", file=sys.stderr)
    return figures


def _round(client: redis.Redis, url: str, keys: int) -> FoldRates:
    found: list[float] = []
    for timed in (False, True):
        bench = Bench(url, keys, timed=timed)
        found += (bench.rate(1), bench.rate(2))
        client.flushdb()
    return FoldRates(*found, benchmark_rate(client, url.removeprefix("unix://"), keys))


def table(figures: list[FoldRates]) -> Table:
    """Render medians, and ratios to ``redis-benchmark`` within a round."""
    made = Table("fold", "keys/s", "× redis-benchmark", "expected")
    for name in ("new", "plain", "timed_new", "timed", "redis_benchmark"):
        rates = [getattr(rates, name) for rates in figures]
        shares = [rate / rates.redis_benchmark for rate, rates in zip(rates, figures, strict=True)]
        least = EXPECTED.get(name)
        made.add_row(
            name.replace("_", " "),
            f"{statistics.median(rates):,.0f}",
            f"{statistics.median(shares):.2f}",
            f"≥ {least}" if least else "",
        )
    return made


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folding", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    figures = measure(args.keys, args.rounds)
    Console().print(table(figures))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(rates) for rates in figures], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
