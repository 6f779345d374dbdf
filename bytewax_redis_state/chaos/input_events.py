"""The events of the harness's flow: each follows from its number alone, so a replay is the same.

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
"""Events between two items of the source that is idle most of the time."""
START = datetime(2025, 1, 1, tzinfo=timezone.utc)
LENGTH = timedelta(minutes=20)
"""Of a tumbling window."""
GAP = timedelta(minutes=15)
"""Between two sessions."""
WAIT = timedelta(minutes=1)
"""How late an event may come; longer than the jitter, so that none is late."""

_BUSY = 24  # accounts that get events all the time
_RARE_EVERY = 40  # events between two of accounts that come once and stay idle
_BETWEEN = timedelta(minutes=5)
_JITTER = timedelta(seconds=30)
_BLOCK = 300


class AccountEntry(NamedTuple):
    """An event of an account."""

    number: int
    at: datetime
    cents: int


class Sum(NamedTuple):
    """What a window adds up: first and last event, how many, how much."""

    first: datetime
    last: datetime
    entries: int
    cents: int


def _draw(number: int, purpose: str) -> float:
    data = hashlib.blake2b(f"{purpose} {number}".encode(), digest_size=4).digest()
    return int.from_bytes(data, "big") / 2**32


def entry(number: int) -> tuple[str, AccountEntry]:
    """Make an entry: its account, and the rest."""
    part = number % PARTS
    if _draw(number, "rare") < 1 / _RARE_EVERY:
        account = f"rare-{number // 200}-{part}"
    else:
        account = f"account-{int(_draw(number, 'account') * (_BUSY // PARTS)) * PARTS + part}"
    at = START + number * _BETWEEN / _BUSY + _draw(number, "jitter") * _JITTER
    return account, AccountEntry(number, at, int(_draw(number, "cents") * 20_000) - 10_000)


def payment(number: int) -> tuple[str, str]:
    """Make a payment: of another order than the entry of that number, hundreds away."""
    block, place = divmod(number, _BLOCK)
    order = (block + 1) * _BLOCK - 1 - place
    return f"order-{order}", f"device-{int(_draw(order, 'device') * 9)}"


def note(number: int) -> tuple[str, AccountEntry]:
    """Make an item of the idle source: its key, and the amount."""
    return f"note-{number % 2}", AccountEntry(number, START, number + 1)


def balance_line(key: str, number: int, cents: int) -> str:
    """Write what a running sum puts out."""
    return f"balance {key} {number} {cents}"


def paid_line(order: str, cents: int, device: str) -> str:
    """Write what the join puts out."""
    return f"paid {order} {cents} {device}"


def window_line(step: str, account: str, total: Sum) -> str:
    """Write what a closed window puts out."""
    first, last, entries, cents = total
    return f"{step} {account} {first.isoformat()} {last.isoformat()} {entries} {cents}"


def file_of(key: str) -> int:
    """Choose the sink's partition of a key."""
    return crc32(key.encode()) % FILES


def digest(line: str) -> int:
    """Hash a line; sums of it tell sets of lines apart, in any order."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=7).digest(), "big")
