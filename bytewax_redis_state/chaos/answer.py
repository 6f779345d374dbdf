"""What the harness's flow must leave, worked out without Bytewax, and the comparison with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bytewax_redis_state.chaos import stream
from bytewax_redis_state.chaos.stream import Entry, Sum

__all__ = ["Answer", "State", "differences", "right_answer"]

State = Mapping[str, Mapping[str, Any]]
"""Short step name to state key to state, in plain values."""

_SHOWN = 5


@dataclass(frozen=True)
class Answer:
    """What is left when all input has been read.

    :arg state: Of every key.
    :arg lines: All that was put out: each sum, each join, each closed window.
    """

    state: State
    lines: Set[str]

    @property
    def values(self) -> int:
        """How many values there are to compare."""
        return sum(map(len, self.state.values())) + len(self.lines)


def right_answer(limit: int) -> Answer:
    """Work out what the flow must leave.

    :arg limit: Below which number its events are.
    """
    entries = [stream.entry(number) for number in range(limit)]
    notes = [stream.note(number) for number in range(limit // stream.NOTE_EVERY)]
    balance, lines = _balances([*entries, *notes])
    paid, joined = _joins(entries, limit)
    lines += joined
    by_account: dict[str, list[Entry]] = defaultdict(list)
    for account, an_entry in entries:
        by_account[account].append(an_entry)
    for account, events in by_account.items():
        lines += [(account, stream.window_line("minutes", account, s)) for s in _tumbling(events)]
        lines += [(account, stream.window_line("visits", account, s)) for s in _sessions(events)]
    state: State = {
        "entries": _positions(limit, stream.PARTS),
        "payments": _positions(limit, stream.PARTS),
        "notes": _positions(limit // stream.NOTE_EVERY, 1),
        "balance": balance,
        "paid": paid,
        "minutes": {},
        # Bytewax never drops an account whose last session has ended; its watermark stays.
        "visits": {account: _watermark(events) for account, events in by_account.items()},
        "out": _written(lines),
    }
    return Answer(state, {line for _, line in lines})


def _positions(limit: int, parts: int) -> dict[str, int]:
    return {str(part): len(range(part, limit, parts)) * parts + part for part in range(parts)}


def _balances(entries: Iterable[tuple[str, Entry]]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    balance: dict[str, int] = defaultdict(int)
    lines = []
    for key, an_entry in entries:
        balance[key] += an_entry.cents
        lines.append((key, stream.balance_line(key, an_entry.number, balance[key])))
    return dict(balance), lines


def _joins(
    entries: Iterable[tuple[str, Entry]], limit: int
) -> tuple[dict[str, list[list[Any]]], list[tuple[str, str]]]:
    """Give the halves that still wait for the other one, and the lines of the others."""
    cents = {f"order-{an_entry.number}": an_entry.cents for _, an_entry in entries}
    device = dict(stream.payment(number) for number in range(limit))
    lines = [(o, stream.paid_line(o, cents[o], device[o])) for o in cents.keys() & device.keys()]
    waiting: dict[str, list[list[Any]]] = {}
    for order in cents.keys() ^ device.keys():
        sides: list[dict[str, Any]] = [cents, device]
        waiting[order] = [[side[order]] if order in side else [] for side in sides]
    return waiting, lines


def _summed(events: Iterable[Entry]) -> Sum:
    group = list(events)
    times = [e.at for e in group]
    return Sum(min(times), max(times), len(group), sum(e.cents for e in group))


def _tumbling(events: Iterable[Entry]) -> Iterator[Sum]:
    windows: dict[int, list[Entry]] = defaultdict(list)
    for an_entry in events:
        windows[(an_entry.at - stream.START) // stream.LENGTH].append(an_entry)
    yield from map(_summed, windows.values())


def _sessions(events: Iterable[Entry]) -> Iterator[Sum]:
    session: list[Entry] = []
    for an_entry in sorted(events, key=lambda e: e.at):
        if session and an_entry.at - session[-1].at > stream.GAP:
            yield _summed(session)
            session = []
        session.append(an_entry)
    yield _summed(session)


def _watermark(events: Iterable[Entry]) -> datetime:
    return max(an_entry.at for an_entry in events) - stream.WAIT


def _written(lines: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    count, digest = [0] * stream.FILES, [0] * stream.FILES
    for key, line in lines:
        part = stream.file_of(key)
        count[part] += 1
        digest[part] = (digest[part] + stream.digest(line)) % 2**60
    return {str(part): (count[part], digest[part]) for part in range(stream.FILES)}


def differences(found: Answer, right: Answer) -> list[str]:
    """Compare everything; one line for each step and for the output, where they differ."""
    wrong = []
    for step in sorted({*found.state, *right.state}):
        have, want = found.state.get(step, {}), right.state.get(step, {})
        wrong += _compared(f"state of {step}", have, want)
    for what, lines in (
        ("put out, but not in the answer", found.lines - right.lines),
        ("in the answer, but not put out", right.lines - found.lines),
    ):
        if lines:
            shown = "; ".join(sorted(lines)[:_SHOWN])
            wrong.append(f"{len(lines)} lines {what}: {shown}")
    return wrong


def _compared(what: str, found: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    keys = sorted({*found, *right})
    wrong = [
        f"{key!r}: {found.get(key)!r} instead of {right.get(key)!r}"
        for key in keys
        if found.get(key) != right.get(key)
    ]
    return [f"{what}: {len(wrong)} of {len(keys)} wrong: {'; '.join(wrong[:_SHOWN])}"] * bool(wrong)
