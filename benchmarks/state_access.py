"""Job (m): small values by key, in Redis and in the embedded stores of Quix Streams and Faust.

Those stores are driven without a broker: RocksDB in the process itself, with the serialiser that
the library gives it, and without the changelog in Kafka that makes it durable. So this is no race
of equals: it says what a server on the other end of a socket costs beside files in the process,
with batches and without. Each run is a process: ``python -m benchmarks.state_access SPEC``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any

from benchmarks.contest import Contender, Contest, FailedRunError, TooSlowError, share
from benchmarks.flow_run import OURS, environment
from benchmarks.flows import WrongResultError
from benchmarks.results import Run
from benchmarks.server import benchmark_server, emptied
from bytewax_redis_state.backend import RedisStateBackend

VALUE = {"count": 3, "sum": 4.5, "name": "x", "last": [1, 2, 3]}
BATCHED_KEYS, SINGLE_KEYS, BATCH = 100_000, 10_000, 1000
BOUND = 120.0
_FEW = 3
QUIX, FAUST = "Quix Streams (RocksDB)", "Faust (RocksDB)"
_DISTRIBUTIONS = {QUIX: ("quixstreams",), FAUST: ("faust", "rocksdict")}
_INSTALL = "pip install 'bytewax-redis-state[bench-rivals]'"


@dataclass(frozen=True)
class Access:
    """The specification of a run.

    :arg store: Whose.
    :arg keys: How many.
    :arg batch: Keys that are written, or read, together where the store has a way to.
    :arg read: Whether reading them back is timed; else writing them.
    :arg url: Where Redis is.
    """

    store: str
    keys: int
    batch: int
    read: bool
    url: str = ""


# -- the stores --------------------------------------------------------------------------------


class RedisStore:
    """Ours: a call a batch, or a call a key."""

    def __init__(self, access: Access, folder: str) -> None:
        self._backend = RedisStateBackend.from_url(access.url)

    def write(self, keys: list[str]) -> None:
        if len(keys) == 1:
            self._backend.put(keys[0], VALUE)
        else:
            self._backend.batch_put(dict.fromkeys(keys, VALUE))

    def read(self, keys: list[str]) -> list[Any]:
        if len(keys) == 1:
            return [self._backend.get(keys[0])]
        found = self._backend.batch_get(keys)
        return [found[key] for key in keys]


class QuixStore:
    """A partition of Quix Streams' state: a transaction a batch, flushed to RocksDB."""

    def __init__(self, access: Access, folder: str) -> None:
        from quixstreams.state.rocksdb import RocksDBStorePartition

        self._partition = RocksDBStorePartition(f"{folder}/db")

    def write(self, keys: list[str]) -> None:
        transaction = self._partition.begin()
        for key in keys:
            transaction.set(key="value", value=VALUE, prefix=key.encode())
        transaction.flush()

    def read(self, keys: list[str]) -> list[Any]:
        transaction = self._partition.begin()
        return [transaction.get(key="value", prefix=key.encode()) for key in keys]


class _Event:
    """The event that Faust asks for the partition of an item."""

    class message:  # noqa: N801
        partition = 0


class FaustStore:
    """The store behind a table of Faust; it knows no batches."""

    def __init__(self, access: Access, folder: str) -> None:
        import faust
        from faust import streams

        app = faust.App("bench", broker="kafka://127.0.0.1:1", store="rocksdb://", datadir=folder)
        self._app, self._event = app, _Event()
        streams._current_event.set(weakref.ref(self._event))
        self._data = app.Table("values", partitions=1, options={"driver": "rocksdict"}).data

    def write(self, keys: list[str]) -> None:
        for key in keys:
            self._data[key] = VALUE

    def read(self, keys: list[str]) -> list[Any]:
        return [self._data[key] for key in keys]


STORES: dict[str, Callable[[Access, str], Any]] = {
    OURS: RedisStore,
    QUIX: QuixStore,
    FAUST: FaustStore,
}


# -- in the child ------------------------------------------------------------------------------


def measure(access: Access, folder: str) -> float:
    """Write all keys, then read them; give the keys a second of the timed part.

    :raises WrongResultError: If a value read is not the one that was written.
    """
    store = STORES[access.store](access, folder)
    names = (f"key-{number:07d}" for number in range(access.keys))
    batches = list(iter(lambda: list(islice(names, access.batch)), []))
    started = time.perf_counter()
    for batch in batches:
        store.write(batch)
    written = time.perf_counter()
    wrong = sum(value != VALUE for batch in batches for value in store.read(batch))
    read = time.perf_counter()
    if wrong:
        raise WrongResultError(f"{access.store}: {wrong} values are not what was written")
    return access.keys / (read - written if access.read else written - started)


def main() -> int:
    """Run the store that the command line specifies."""
    warnings.simplefilter("ignore")  # of libraries that ours has no part in
    with tempfile.TemporaryDirectory(prefix="bench-store-") as folder:
        print(json.dumps(measure(Access(**json.loads(sys.argv[1])), folder)))
    return 0


# -- in the parent -----------------------------------------------------------------------------


def run_apart(access: Access) -> Run:
    """Measure in a process of its own.

    :raises TooSlowError: If it takes too long.
    :raises FailedRunError: If it fails.
    """
    command = [sys.executable, "-m", "benchmarks.state_access", json.dumps(asdict(access))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=BOUND, env=environment()
        )
    except subprocess.TimeoutExpired:
        raise TooSlowError(f"a run took longer than {BOUND:.0f} s") from None
    if done.returncode:
        raise FailedRunError(f"{access.store} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Run(round(float(done.stdout.splitlines()[-1]), 1))


def _installed(store: str) -> bool:
    return all(find_spec(name) for name in _DISTRIBUTIONS.get(store, ()))


@contextmanager
def _contenders(access: Access) -> Iterator[list[Contender]]:
    with benchmark_server() as url:

        def run(store: str) -> Run:
            given = Access(store, access.keys, access.batch, access.read, url)
            with emptied(url):
                return run_apart(given)

        yield [Contender(store, partial(run, store)) for store in STORES if _installed(store)]


def contests(scale: float) -> list[Contest]:
    """Give the contests: writing and reading, in batches and key by key."""
    missing = [store for store in STORES if not _installed(store)]
    notes = [f"{store} is not installed: {_INSTALL}" for store in missing]
    here = [store for store in STORES if store not in missing]
    return [
        Contest(
            "m",
            f"{'read' if read else 'write'}, {text}",
            f"{keys:,} small values: {'read' if read else 'written'} {text}",
            partial(_contenders, Access("", max(100, int(keys * scale)), batch, read)),
            dict.fromkeys(here, (seconds, _FEW)),
            figures=[share(OURS, store) for store in here if store != OURS],
            unit="keys/s",
            notes=notes,
            scale=scale,
        )
        for batch, keys, text, seconds in (
            (BATCH, BATCHED_KEYS, "1,000 at a time", 1.5),
            (1, SINGLE_KEYS, "one by one", 2.0),
        )
        for read in (False, True)
    ]


if __name__ == "__main__":
    sys.exit(main())
