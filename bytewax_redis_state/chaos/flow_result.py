"""State and output of the harness's flow: the expected ones, and the comparison with them.

The expected result is worked out without Bytewax, so that no bug of either can hide in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bytewax_redis_state.chaos import hostile_values, input_events
from bytewax_redis_state.chaos.input_events import AccountEntry, Sum

__all__ = ["FlowResult", "State", "differences", "expected_result"]

State = Mapping[str, Mapping[str, Any]]
"""Short step name to state key to state, in plain values."""

_SHOWN = 5


@dataclass(frozen=True)
class FlowResult:
    """State and output of a flow that has read all its input.

    :arg state: The state of every key, by step.
    :arg lines: The lines of its output: each sum, each join, each closed window.
    """

    state: State
    lines: Set[str]

    @property
    def values(self) -> int:
        """The number of values to compare."""
        return sum(map(len, self.state.values())) + len(self.lines)


def expected_result(limit: int, *, shaped: bool = False) -> FlowResult:
    """Work out the result of an uninterrupted run.

    :arg limit: The flow reads the events with numbers below it.
    :arg shaped: Whether the flow has the step with values of hostile shape.
    """
    entries = [input_events.entry(number) for number in range(limit)]
    notes = [input_events.note(number) for number in range(limit // input_events.NOTE_EVERY)]
    balance, lines = _balances([*entries, *notes])
    paid, joined = _joins(entries, limit)
    lines += joined
    by_account: dict[str, list[AccountEntry]] = defaultdict(list)
    for account, an_entry in entries:
        by_account[account].append(an_entry)
    for account, events in by_account.items():
        lines += [
            (account, input_events.window_line("minutes", account, s)) for s in _tumbling(events)
        ]
        lines += [
            (account, input_events.window_line("visits", account, s)) for s in _sessions(events)
        ]
    hostile, put = _hostile(limit) if shaped else ({}, [])
    lines += put
    state: State = {
        **({"hostile": hostile} if shaped else {}),
        "entries": _positions(limit, input_events.PARTS),
        "payments": _positions(limit, input_events.PARTS),
        "notes": _positions(limit // input_events.NOTE_EVERY, 1),
        "balance": balance,
        "paid": paid,
        "minutes": {},
        # Bytewax never drops an account whose last session has ended; its watermark stays.
        "visits": {account: _watermark(events) for account, events in by_account.items()},
        "out": _written(lines),
    }
    return FlowResult(state, {line for _, line in lines})


def _positions(limit: int, parts: int) -> dict[str, int]:
    return {str(part): len(range(part, limit, parts)) * parts + part for part in range(parts)}


def _balances(
    entries: Iterable[tuple[str, AccountEntry]],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    balance: dict[str, int] = defaultdict(int)
    lines = []
    for key, an_entry in entries:
        balance[key] += an_entry.cents
        lines.append((key, input_events.balance_line(key, an_entry.number, balance[key])))
    return dict(balance), lines


def _joins(
    entries: Iterable[tuple[str, AccountEntry]], limit: int
) -> tuple[dict[str, list[list[Any]]], list[tuple[str, str]]]:
    """Give the orders and payments that still wait for each other, and the lines of the rest."""
    cents = {f"order-{an_entry.number}": an_entry.cents for _, an_entry in entries}
    device = dict(input_events.payment(number) for number in range(limit))
    lines = [
        (o, input_events.paid_line(o, cents[o], device[o])) for o in cents.keys() & device.keys()
    ]
    waiting: dict[str, list[list[Any]]] = {}
    for order in cents.keys() ^ device.keys():
        sides: list[dict[str, Any]] = [cents, device]
        waiting[order] = [[side[order]] if order in side else [] for side in sides]
    return waiting, lines


def _hostile(limit: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Give the marks of the hostile values that are state, and the lines."""
    state: dict[str, Any] = {}
    lines = []
    for number in range((limit + hostile_values.EVERY - 1) // hostile_values.EVERY):
        key, value = hostile_values.hostile_value(number)
        lines.append((key, hostile_values.value_line(number, state.get(key))))
        state[key] = value
    return {key: hostile_values.mark_of(value) for key, value in state.items()}, lines


def _summed(events: Iterable[AccountEntry]) -> Sum:
    group = list(events)
    times = [e.at for e in group]
    return Sum(min(times), max(times), len(group), sum(e.cents for e in group))


def _tumbling(events: Iterable[AccountEntry]) -> Iterator[Sum]:
    windows: dict[int, list[AccountEntry]] = defaultdict(list)
    for an_entry in events:
        windows[(an_entry.at - input_events.START) // input_events.LENGTH].append(an_entry)
    yield from map(_summed, windows.values())


def _sessions(events: Iterable[AccountEntry]) -> Iterator[Sum]:
    session: list[AccountEntry] = []
    for an_entry in sorted(events, key=lambda e: e.at):
        if session and an_entry.at - session[-1].at > input_events.GAP:
            yield _summed(session)
            session = []
        session.append(an_entry)
    yield _summed(session)


def _watermark(events: Iterable[AccountEntry]) -> datetime:
    return max(an_entry.at for an_entry in events) - input_events.WAIT


def _written(lines: Iterable[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    count, digest = [0] * input_events.FILES, [0] * input_events.FILES
    for key, line in lines:
        part = input_events.file_of(key)
        count[part] += 1
        digest[part] = (digest[part] + input_events.digest(line)) % 2**60
    return {str(part): (count[part], digest[part]) for part in range(input_events.FILES)}


def differences(found: FlowResult, right: FlowResult) -> list[str]:
    """Compare two results.

    :returns: A line for each step whose state differs, and for the output if it differs.
    """
    wrong = []
    for step in sorted({*found.state, *right.state}):
        have, want = found.state.get(step, {}), right.state.get(step, {})
        wrong += _compared(f"state of {step}", have, want)
    for what, lines in (
        ("put out, but not expected", found.lines - right.lines),
        ("expected, but not put out", right.lines - found.lines),
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
