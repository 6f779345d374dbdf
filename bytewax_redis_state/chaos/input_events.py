"""The events of the harness's flow: each follows from its number alone, so a replay is equal.

Invariant: all events of a key come from one partition of one source, so they have one order.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from typing import NamedTuple
from zlib import crc32

__all__ = [
    "FILES",
    "GAP",
    "LENGTH",
    "NOTE_EVERY",
    "PARTS",
    "START",
    "WAIT",
    "AccountEntry",
    "Sum",
    "balance_line",
    "digest",
    "entry",
    "file_of",
    "note",
    "paid_line",
    "payment",
    "window_line",
]

PARTS = 3
"""Partitions of each of the two large sources."""
FILES = 2
"""Partitions of the sink."""
NOTE_EVERY = 600
"""Events between two items of the source that is mostly idle."""
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
LENGTH = timedelta(minutes=20)
"""Length of a tumbling window."""
GAP = timedelta(minutes=15)
"""Gap that ends a session."""
WAIT = timedelta(minutes=1)
"""Bytewax waits so long for late events; longer than the jitter, so that none comes too late."""

_BUSY = 24  # accounts that get events all the time
_RARE_EVERY = 40  # events between two events of accounts that soon stay idle
_BETWEEN = timedelta(minutes=5)
_JITTER = timedelta(seconds=30)
_BLOCK = 300


class AccountEntry(NamedTuple):
    """An event of an account."""

    number: int
    at: datetime
    cents: int


class Sum(NamedTuple):
    """The sum over a window: first and last event, their number, their cents."""

    first: datetime
    last: datetime
    entries: int
    cents: int


def _draw(number: int, purpose: str) -> float:
    data = hashlib.blake2b(f"{purpose} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(data, "big") / 2**32


def entry(number: int) -> tuple[str, AccountEntry]:
    """Make the entry of a number, with its account."""
    part = number % PARTS
    if _draw(number, "rare") < 1 / _RARE_EVERY:
        account = f"rare-{number // 200}-{part}"
    else:
        account = f"account-{int(_draw(number, 'account') * (_BUSY // PARTS)) * PARTS + part}"
    at = START + number * _BETWEEN / _BUSY + _draw(number, "jitter") * _JITTER
    return account, AccountEntry(number, at, int(_draw(number, "cents") * 20_000) - 10_000)


def payment(number: int) -> tuple[str, str]:
    """Make the payment of a number: it pays for an entry that may be hundreds of numbers away."""
    block, place = divmod(number, _BLOCK)
    order = (block + 1) * _BLOCK - 1 - place
    return f"order-{order}", f"device-{int(_draw(order, 'device') * 9)}"


def note(number: int) -> tuple[str, AccountEntry]:
    """Make an item of the idle source, with its key."""
    return f"note-{number % 2}", AccountEntry(number, START, number + 1)


def balance_line(key: str, number: int, cents: int) -> str:
    """Write the output line of a running sum."""
    return f"balance {key} {number} {cents}"


def paid_line(order: str, cents: int, device: str) -> str:
    """Write the output line of a join."""
    return f"paid {order} {cents} {device}"


def window_line(step: str, account: str, total: Sum) -> str:
    """Write the output line of a closed window."""
    first, last, entries, cents = total
    return f"{step} {account} {first.isoformat()} {last.isoformat()} {entries} {cents}"


def file_of(key: str) -> int:
    """Choose the partition of the sink for a key."""
    return crc32(key.encode()) % FILES


def digest(line: str) -> int:
    """Hash a line; the sum of the hashes tells sets of lines apart, in any order."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=7).digest(), "big")
