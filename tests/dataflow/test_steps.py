"""What state-bearing steps are called, and how users may name them."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.testing import TestingSink, TestingSource

from bytewax_redis_state.dataflow.steps import (
    is_stateless,
    listed_partitions,
    resolve_step,
    state_steps,
)
from bytewax_redis_state.errors import ConfigError

from .operator_catalog import WINDOWERS, TwoPartSource, event_clock, twice
from .recording import CountingSink, NumbersSource


def orders() -> Dataflow:
    flow = Dataflow("orders")
    items = op.input("items", flow, TwoPartSource())
    summed = op.stateful_map("sum", items, lambda state, value: (value, value))
    twin = twice("twice", summed)
    joined = win.join_window("both", event_clock(), WINDOWERS["tumbling"], items, items)
    op.output("shown", twin, TestingSink([]))
    op.output("kept", joined.down, CountingSink())
    return flow


def test_a_step_has_the_shortest_name_that_holds_no_other() -> None:
    steps = state_steps(orders())
    core = "stateful_flat_map.stateful.stateful_batch"
    assert [(step.name, step.step_id, step.engine_id, step.kind) for step in steps] == [
        ("items", "orders.items", "orders.items", "source"),
        ("sum", f"orders.sum.{core}", f"orders.sum.{core}.shards", "keyed"),
        ("twice.totals", "orders.twice.totals", "orders.twice.totals.shards", "keyed"),
        (
            "twice.inner",
            f"orders.twice.inner.count.{core}",
            f"orders.twice.inner.count.{core}.shards",
            "keyed",
        ),
        (
            "both",
            "orders.both.window.stateful_batch",
            "orders.both.window.stateful_batch.shards",
            "keyed",
        ),
        ("kept", "orders.kept", "orders.kept", "sink"),
    ]


def test_a_step_has_the_operator_that_the_user_called_in_whatever_operator_of_the_users() -> None:
    assert [(step.operator, step.operator_id) for step in state_steps(orders())] == [
        ("input", "orders.items"),
        ("stateful_map", "orders.sum"),
        ("stateful_batch", "orders.twice.totals"),
        ("stateful_map", "orders.twice.inner.count"),
        ("join_window", "orders.both"),
        ("output", "orders.kept"),
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("sum", "sum"),
        ("orders.sum", "sum"),
        ("orders.sum.stateful_flat_map", "sum"),
        ("orders.sum.stateful_flat_map.stateful.stateful_batch", "sum"),
        ("sum.stateful_flat_map.stateful", "sum"),
        ("twice.inner.count", "twice.inner"),
        ("items", "items"),
        ("orders.kept", "kept"),
    ],
)
def test_users_may_write_a_name_in_any_of_its_forms(name: str, found: str) -> None:
    assert resolve_step(name, state_steps(orders())).name == found


@pytest.mark.parametrize("name", ["su", "sum.", "shown", "orders", "", "other.sum", "twice"])
def test_another_name_is_refused_with_a_list_of_the_right_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"twice\.totals, twice\.inner"):
        resolve_step(name, state_steps(orders()))


def test_a_step_named_as_its_flow_is_found() -> None:
    flow = Dataflow("sum")
    items = op.input("items", flow, NumbersSource(1))
    op.count_final("sum", items, str)
    names = [step.name for step in state_steps(flow)]
    assert names == ["items", "sum"]
    assert resolve_step("sum", state_steps(flow)).name == "sum"
    assert resolve_step("sum.sum", state_steps(flow)).name == "sum"


def test_partitions_are_listed_once() -> None:
    flow = Dataflow("flow")
    source, sink = NumbersSource(1), CountingSink()
    op.output("out", op.input("in", flow, source), sink)
    assert listed_partitions(flow) == {"in": ["numbers"], "out": ["a", "b"]}
    assert source.listed == 1


class _Silent(DynamicSource[Any]):
    def build(self, *_where: Any) -> StatelessSourcePartition[Any]:
        raise NotImplementedError


def test_a_flow_without_state_is_known() -> None:
    flow = Dataflow("flow")
    items = op.input("in", flow, _Silent())
    op.output("out", op.redistribute("spread", items), TestingSink([]))
    assert is_stateless(flow)
    op.input("more", flow, TestingSource([]))
    assert not is_stateless(flow)
