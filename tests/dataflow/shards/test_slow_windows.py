"""Windows that have no fast path, because nobody could vouch for it: same results without one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow.fast_paths.registry import find_fast_path
from tests.dataflow.core_steps import core_path

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
S = timedelta(seconds=1)
ITEMS = [(f"k{n % 3}", (NOON + (n * 7 % 60) * S, n)) for n in range(60)]


class OwnClock(win.EventClock):  # type: ignore[type-arg]
    """May do anything."""


class OwnTumbling(win.TumblingWindower):
    """May do anything."""


class OwnSliding(win.SlidingWindower):
    """May do anything."""


def clock(kind: Any = win.EventClock, **given: Any) -> Any:
    given = {"now_getter": lambda: NOON, "to_system_utc": lambda _at: None} | given
    return kind(lambda value: value[0], 100 * S, **given)


TUMBLING = win.TumblingWindower(length=10 * S, align_to=NOON)
PLAIN = (clock(), TUMBLING)
SLOW: dict[str, tuple[Any, Any]] = {
    "a subclassed clock": (clock(OwnClock), TUMBLING),
    "a subclassed tumbling windower": (clock(), OwnTumbling(length=10 * S, align_to=NOON)),
    "a subclassed sliding windower": (
        clock(),
        OwnSliding(length=10 * S, offset=5 * S, align_to=NOON),
    ),
    "the system's clock": (
        win.SystemClock(),
        win.TumblingWindower(length=timedelta(days=36_500), align_to=NOON),
    ),
}


def flow_of(of_clock: Any, windower: Any, out: list[Any]) -> Dataflow:
    flow = Dataflow("flow")
    items = op.input("items", flow, TestingSource(ITEMS))
    parts = (items, of_clock, windower)
    folded = win.fold_window("w", *parts, list, lambda s, v: [*s, v[1]], list.__add__)
    op.output("out", folded.down, TestingSink(out))
    return flow


def test_the_plain_one_is_fast() -> None:
    assert find_fast_path(core_path(flow_of(*PLAIN, []))) is not None


@pytest.mark.parametrize("case", SLOW)
def test_what_is_not_known_to_be_the_same_has_no_fast_path(case: str) -> None:
    stock: list[Any] = []
    ours: list[Any] = []
    assert find_fast_path(core_path(flow_of(*SLOW[case], []))) is None
    run_main(flow_of(*SLOW[case], stock))
    run_main(shard_stateful_steps(flow_of(*SLOW[case], ours)))
    assert stock
    assert sorted(ours) == sorted(stock)


@pytest.mark.parametrize(
    ("of_clock", "windower"),
    [
        # Between two windows, a value is in none; to which fold it would go is for Bytewax to say.
        (clock(), win.SlidingWindower.__new__(win.SlidingWindower)),
        (win.EventClock(lambda v: v[0], S, to_system_utc=lambda at: at + S), TUMBLING),
    ],
    ids=["an offset beyond the length", "notified late by the system's clock"],
)
def test_what_bytewax_itself_would_hardly_take_has_none_either(
    of_clock: Any, windower: Any
) -> None:
    if type(windower) is win.SlidingWindower:
        windower.length, windower.offset, windower.align_to = 5 * S, 7 * S, NOON
    assert find_fast_path(core_path(flow_of(of_clock, windower, []))) is None


@pytest.mark.parametrize("kind", ["join_window", "window"])
def test_another_operator_around_the_windows_has_none(kind: str) -> None:
    flow = Dataflow("flow")
    items: Any = op.input("items", flow, TestingSource(ITEMS))
    if kind == "join_window":
        made = win.join_window("w", *PLAIN, items, items)
    else:
        made = win.window(
            "w",
            items,
            *PLAIN,
            lambda resume: win._FoldWindowLogic(  # type: ignore
                lambda s, v: s, lambda a, b: a, resume or 0
            ),
        )
    op.output("out", made.down, TestingSink([]))
    assert find_fast_path(core_path(flow)) is None
