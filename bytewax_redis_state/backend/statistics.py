"""What a backend has done: operations, errors, hits, bytes and latency, counted as they happen.

Invariant: a count costs a fraction of a microsecond and never fails, so counting is always on.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

__all__ = ["WINDOW", "Latency", "Meter", "RedisStats"]

WINDOW = 4096
"""How many of the last operations the latency is computed from."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long the last operations took, encoding and retries included.

    :arg window: How many operations these figures are computed from.
    """

    window: int = 0
    mean: timedelta = timedelta(0)
    p50: timedelta = timedelta(0)
    p95: timedelta = timedelta(0)
    p99: timedelta = timedelta(0)
    max: timedelta = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class RedisStats:
    """What a backend has done since it was made, or since ``reset_stats()``.

    :arg operations: How many of each kind ended well.
    :arg errors: How many ended with each class of error.
    :arg hits: Keys that were read and had a value.
    :arg misses: Keys that were read and had none.
    :arg bytes_in: Bytes of values that were read from the server.
    :arg bytes_out: Bytes of values that were sent to the server.
    :arg batches: Round trips of batch operations.
    :arg pipelines: Round trips with more than one command.
    :arg retries: Round trips that were made again.
    :arg latency: How long the last operations took.
    """

    operations: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    batches: int = 0
    pipelines: int = 0
    retries: int = 0
    latency: Latency = field(default_factory=Latency)

    @property
    def total(self) -> int:
        """Number of operations, including those that failed."""
        return sum(self.operations.values()) + self.failed

    @property
    def failed(self) -> int:
        """Number of operations that ended with an error."""
        return sum(self.errors.values())

    @property
    def hit_rate(self) -> float:
        """Share of the keys read that had a value; 0 where no key was read."""
        read = self.hits + self.misses
        return self.hits / read if read else 0.0

    @property
    def error_rate(self) -> float:
        """Share of the operations that ended with an error; 0 where there was no operation."""
        return self.failed / self.total if self.total else 0.0


class Meter:
    """Count; any number of threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._operations: Counter[str] = Counter()
            self._errors: Counter[str] = Counter()
            self._hits = self._misses = self._bytes_in = self._bytes_out = 0
            self._batches = self._pipelines = self._retries = 0
            self._seconds = array("d", bytes(8 * WINDOW))
            self._timed = 0

    def ended(self, kind: str, seconds: float) -> None:
        """Count an operation that ended well."""
        with self._lock:
            self._operations[kind] += 1
            self._seconds[self._timed % WINDOW] = seconds
            self._timed += 1

    def failed(self, error: BaseException, seconds: float) -> None:
        """Count an operation that ended with an error."""
        with self._lock:
            self._errors[type(error).__name__] += 1
            self._seconds[self._timed % WINDOW] = seconds
            self._timed += 1

    def read(self, hits: int, misses: int, size: int) -> None:
        """Count keys that were read, and the bytes of their values."""
        with self._lock:
            self._hits += hits
            self._misses += misses
            self._bytes_in += size

    def wrote(self, size: int) -> None:
        """Count bytes of values that were sent."""
        with self._lock:
            self._bytes_out += size

    def batch(self) -> None:
        """Count a round trip of a batch operation."""
        with self._lock:
            self._batches += 1

    def pipeline(self) -> None:
        """Count a round trip with more than one command."""
        with self._lock:
            self._pipelines += 1

    def retry(self) -> None:
        """Count a round trip that is made again."""
        with self._lock:
            self._retries += 1

    def stats(self) -> RedisStats:
        """Give the counts."""
        with self._lock:
            seconds = self._seconds[: min(self._timed, WINDOW)]
            return RedisStats(
                operations=MappingProxyType(dict(self._operations)),
                errors=MappingProxyType(dict(self._errors)),
                hits=self._hits,
                misses=self._misses,
                bytes_in=self._bytes_in,
                bytes_out=self._bytes_out,
                batches=self._batches,
                pipelines=self._pipelines,
                retries=self._retries,
                latency=_latency(sorted(seconds)),
            )


def _latency(seconds: list[float]) -> Latency:
    if not seconds:
        return Latency()

    def at(share: float) -> timedelta:
        return timedelta(seconds=seconds[min(len(seconds) - 1, int(len(seconds) * share))])

    return Latency(
        window=len(seconds),
        mean=timedelta(seconds=sum(seconds) / len(seconds)),
        p50=at(0.5),
        p95=at(0.95),
        p99=at(0.99),
        max=timedelta(seconds=seconds[-1]),
    )
