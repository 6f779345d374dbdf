"""The state backend beside bare redis-py on one server: ``python -m benchmarks.state_backend``.

``[--quick] [--json FILE]``. The server is append-only with ``everysec``, on a Unix socket. Ours and
bare take turns, call by call or batch by batch, so that both meet the same noise. "bytes" is a
backend without a codec, which does what bare redis-py does; "values" encodes and decodes a small
dict, which bare redis-py gets as ready bytes. Checkpoints run in processes of their own, from which
the growth of peak memory is read; bare is a SCAN with an MGET a page, without TTLs and file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.server import benchmark_server
from bytewax_redis_state.backend import RedisStateBackend
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.server.client import Client, connect

VALUE = {"count": 3, "sum": 4.5, "name": "x", "last": [1, 2, 3]}
RAW = b"x" * 60
HOUR = timedelta(hours=1)
PAGE = 1000


@dataclass(frozen=True)
class Measure:
    """One line of the table; ``ok`` says whether the expectation is met."""

    what: str
    ours: float
    bare: float | None
    unit: str
    expected: str
    ok: bool


def turns(ours: Callable[[int], Any], bare: Callable[[int], Any], count: int) -> tuple[float, ...]:
    """Call both in turn; gives the medians in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(count):
        for call, kept in zip((ours, bare), times, strict=True):
            started = time.perf_counter()
            call(number)
            kept.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


def single(
    name: str, backend: RedisStateBackend, client: Client, value: Any, n: int
) -> list[Measure]:
    """Time put and get of one key."""
    stored = backend.values.dump("k", value)
    lines = []
    for what, ours, bare in (
        ("put", lambda i: backend.put(f"k{i}", value), lambda i: client.set(f"bare:k{i}", stored)),
        ("get", lambda i: backend.get(f"k{i}"), lambda i: client.get(f"bare:k{i}")),
    ):
        mine, theirs = turns(ours, bare, n)
        lines.append(
            Measure(f"{what}, {name}, p50", mine * 1e6, theirs * 1e6, "µs", "≤ 1.3× bare",
                 mine <= 1.3 * theirs)
        )  # fmt: skip
    return lines


def batches(
    name: str, backend: RedisStateBackend, client: Client, value: Any, size: int, n: int
) -> Iterator[Measure]:
    """Time batches: their p50, and the keys a second that follow from it."""
    stored = backend.values.dump("k", value)
    keys = [f"k{i}" for i in range(size)]
    items, bare_items = dict.fromkeys(keys, value), {f"bare:{key}": stored for key in keys}
    calls = {
        "batch_put": (lambda _: backend.batch_put(items), lambda _: client.mset(bare_items)),
        "batch_get": (lambda _: backend.batch_get(keys), lambda _: client.mget([*bare_items])),
        "batch_put with TTL": (
            lambda _: backend.batch_put(items, ttl=HOUR),
            lambda _: expiring(client, bare_items),
        ),
    }
    for what, (ours, bare) in calls.items():
        mine, theirs = turns(ours, bare, n)
        if size < PAGE:
            yield Measure(f"{what} of {size}, {name}, p50", mine * 1e3, theirs * 1e3, "ms",
                             "≤ 0.5 ms", mine <= 0.5e-3)  # fmt: skip
        else:
            floor = 300_000 if "TTL" in what else 500_000
            yield Measure(f"{what} of {size:,}, {name}", size / mine, size / theirs, "keys/s",
                             f"≥ {floor:,}/s", size / mine >= floor)  # fmt: skip


def expiring(client: Client, items: dict[str, bytes]) -> None:
    """Set many keys with a TTL, as one does with bare redis-py."""
    with client.pipeline(transaction=False) as pipe:
        for key, value in items.items():
            pipe.set(key, value, px=3_600_000)
        pipe.execute()


def fill(client: Client, prefix: str, count: int) -> None:
    """Make keys to take a checkpoint of."""
    for start in range(0, count, PAGE):
        client.mset({f"{prefix}user:{i:08d}": RAW for i in range(start, min(start + PAGE, count))})


def checkpoints(url: str, client: Client, count: int, rounds: int) -> Iterator[Measure]:
    """Time checkpoints in processes of their own; the median."""
    prefix = f"ck{count}:"
    fill(client, prefix, count)
    found = [apart(url, prefix, "ours") for _ in range(rounds)]
    mine = statistics.median(one["seconds"] for one in found)
    theirs = statistics.median(apart(url, prefix, "bare")["seconds"] for _ in range(rounds))
    if count <= 10_000:
        yield Measure(f"checkpoint of {count:,} keys", mine * 1e3, theirs * 1e3, "ms", "≤ 40 ms",
                   mine <= 0.04)  # fmt: skip
    else:
        yield Measure(f"checkpoint of {count:,} keys", count / mine, count / theirs, "keys/s",
                   "≥ 300,000/s", count / mine >= 300_000)  # fmt: skip
    grown = max(one["grown_mib"] for one in found)
    yield Measure(
        f"peak memory grows by, {count:,} keys", grown, None, "MiB", "≤ 16 MiB", grown <= 16
    )


def apart(url: str, prefix: str, rival: str) -> dict[str, float]:
    """Take a checkpoint in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.state_backend", "--one", rival]
    command += ["--redis", url, "--prefix", prefix]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def take(rival: str, url: str, prefix: str) -> dict[str, float]:
    """Take a checkpoint, the second one in this process: the first pays for imports."""
    with RedisStateBackend.from_url(url, key_prefix=prefix, pool_min=1) as backend:
        with (
            RedisStateBackend.from_url(url, key_prefix="none:", pool_min=1) as empty,
            tempfile.TemporaryFile() as file,
        ):
            empty.checkpoint(file)
        with tempfile.TemporaryDirectory() as folder:
            before, started = peak_mib(), time.perf_counter()
            if rival == "ours":
                backend.checkpoint(Path(folder) / "checkpoint")
            else:
                scan_and_mget(connect(RedisConfig(url=url)), prefix)
            seconds = time.perf_counter() - started
            return {"seconds": seconds, "grown_mib": peak_mib() - before}


def scan_and_mget(client: Client, prefix: str) -> None:
    """Read all keys the plain way."""
    cursor = -1
    while cursor:
        cursor, keys = client.scan(max(cursor, 0), match=f"{prefix}*", count=PAGE)
        if keys:
            client.mget(keys)


def peak_mib() -> float:
    """Tell the most memory that this process ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(*, quick: bool) -> Iterator[Measure]:
    """Run all; gives line by line."""
    calls, trips, big = (2_000, 100, 100_000) if quick else (20_000, 500, 1_000_000)
    with benchmark_server() as url:
        client = connect(RedisConfig(url=url))
        with RedisStateBackend.from_url(url, codec=None, key_prefix="raw:") as backend:
            yield from single("bytes", backend, client, RAW, calls)
            yield from batches("bytes", backend, client, RAW, 100, trips)
            yield from batches("bytes", backend, client, RAW, PAGE, trips)
        with RedisStateBackend.from_url(url) as backend:
            yield from single("values", backend, client, VALUE, calls)
            yield from batches("values", backend, client, VALUE, 100, trips)
            yield from batches("values", backend, client, VALUE, PAGE, trips)
        client.flushdb()
        yield from checkpoints(url, client, 10_000, 5)
        client.flushdb()
        yield from checkpoints(url, client, big, 3)
        client.close()


def table(lines: list[Measure]) -> Table:
    """Render the figures."""
    made = Table("what", "ours", "bare redis-py", "ours : bare", "expected", "")
    for line in lines:
        digits = 0 if line.unit == "keys/s" else 1 if line.unit in ("µs", "MiB") else 3
        ours = f"{line.ours:,.{digits}f} {line.unit}"
        if line.bare is None:
            made.add_row(line.what, ours, "", "", line.expected, "yes" if line.ok else "NO")
            continue
        bare = f"{line.bare:,.{digits}f} {line.unit}"
        ratio = f"{line.ours / line.bare:.2f}×"
        made.add_row(line.what, ours, bare, ratio, line.expected, "yes" if line.ok else "NO")
    return made


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.state_backend",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(take(args.one, args.redis, args.prefix)))
        return 0
    lines = []
    for line in measure(quick=args.quick):
        print(f"{line.what}: {line.ours:,.3f} {line.unit}", file=sys.stderr)
        lines.append(line)
    Console(width=max(Console().width, 110)).print(table(lines))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
