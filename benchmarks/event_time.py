"""Flows of event time: counts and folds in tumbling windows, and sessions; nothing comes too late.

Event time runs from now, or from years ago, over ten minutes: faster than any run, so that what
closes a window is the same for every rival.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow

from benchmarks.flows import Batches, Load, Taker, Tally, names_of

PAST = datetime(2022, 1, 1, tzinfo=timezone.utc)
SPAN, LENGTH = timedelta(minutes=10), timedelta(minutes=1)
SHUFFLED_BY, WAIT = timedelta(seconds=10), timedelta(seconds=60)
VISIT, BREAK, GAP = 10, timedelta(minutes=2), timedelta(minutes=1)
_PRIME = 7919

Stamped = tuple[str, datetime]


def _start(load: Load) -> datetime:
    if load.past:
        return PAST
    # No window's end may pass by the system's clock before its items have: Bytewax then calls
    # every open window on each activation, as it does with events long past. Shuffled items reach
    # back into the window before the first.
    ahead = 2 * LENGTH if load.shuffled else LENGTH
    return datetime.now(timezone.utc).replace(second=0, microsecond=0) + ahead


def _maker(load: Load) -> Callable[[range], list[Stamped]]:
    names, keys, start = names_of(load.keys), load.keys, _start(load)
    step = SPAN / load.events
    if not load.shuffled:
        return lambda numbers: [(names[n % keys], start + n * step) for n in numbers]
    jitter = [n * SHUFFLED_BY / _PRIME for n in range(_PRIME)]
    # A key's items come in rounds; the jitter of two rounds has nothing to do with each other.
    return lambda numbers: [
        (names[n % keys], start + n * step - jitter[n * n % _PRIME]) for n in numbers
    ]


def _visits(load: Load) -> Callable[[range], list[Stamped]]:
    """Each key comes in visits of ten items, a second apart, with a break between two visits."""
    names, keys, start = names_of(load.keys), load.keys, _start(load)
    second = timedelta(seconds=1)

    def at(number: int) -> datetime:
        turn = number // keys
        return start + turn * second + turn // VISIT * BREAK

    return lambda numbers: [(names[n % keys], at(n)) for n in numbers]


def _counts(tally: Tally) -> Callable[[], Callable[[list[Any]], None]]:
    def take(items: list[Any]) -> None:
        tally.counted += sum(count for _, (_, count) in items)

    return lambda: take


def _fold(
    step_id: str, items: op.KeyedStream[datetime], windower: win.Windower[Any]
) -> win.WindowOut[Any, int]:
    clock = win.EventClock(ts_getter=lambda at: at, wait_for_system_duration=WAIT)
    return win.fold_window(
        step_id, items, clock, windower, int, lambda n, _at: n + 1, lambda a, b: a + b
    )


def count(load: Load, tally: Tally) -> Dataflow:
    """Count each key's items a minute."""
    flow = Dataflow("count")
    items = op.input("in", flow, Batches(_maker(load), load.events, load.parts))
    windower = win.TumblingWindower(LENGTH, PAST)
    clock = win.EventClock(ts_getter=lambda item: item[1], wait_for_system_duration=WAIT)
    counted = win.count_window("minute", items, clock, windower, lambda item: item[0])
    op.output("out", counted.down, Taker(tally, _counts(tally)))
    return flow


def fold(load: Load, tally: Tally) -> Dataflow:
    """Fold each key's items of a minute."""
    flow = Dataflow("fold")
    items = op.input("in", flow, Batches(_maker(load), load.events, load.parts))
    folded = _fold("minute", items, win.TumblingWindower(LENGTH, PAST))
    op.output("out", folded.down, Taker(tally, _counts(tally)))
    return flow


def sessions(load: Load, tally: Tally) -> Dataflow:
    """Fold each key's visits."""
    flow = Dataflow("sessions")
    items = op.input("in", flow, Batches(_visits(load), load.events, load.parts))
    folded = _fold("visit", items, win.SessionWindower(GAP))
    op.output("out", folded.down, Taker(tally, _counts(tally)))
    return flow


def check_counts(load: Load, tally: Tally) -> None:
    """Require that every item was counted in a window, once."""
    tally.require("counts", tally.counted, load.events)
