"""Bytewax's Python side: which operators there are, the tree of steps, how signatures are read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from types import ModuleType
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pytest
from bytewax.dataflow import Dataflow, Operator, operator
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.testing import TestingSink, TestingSource

from .engine import run, run_well

PYTHON_CORE = {
    "branch",
    "flat_map_batch",
    "input",
    "inspect_debug",
    "merge",
    "output",
    "redistribute",
    "stateful_batch",
}
STATELESS = {
    "_join_label_merge",
    "enrich_cached",
    "filter",
    "filter_map",
    "filter_map_value",
    "filter_value",
    "flat_map",
    "flat_map_value",
    "flatten",
    "inspect",
    "key_on",
    "key_rm",
    "map",
    "map_value",
    "raises",
}
WINDOW = {
    "clock": win.EventClock(lambda _: datetime.now(timezone.utc), timedelta(0)),
    "windower": win.TumblingWindower(
        length=timedelta(minutes=1), align_to=datetime(2024, 1, 1, tzinfo=timezone.utc)
    ),
}
STATEFUL: dict[str, Callable[[KeyedStream], Any]] = {
    "collect": lambda s: op.collect("it", s, timedelta(1), 2),
    "count_final": lambda s: op.count_final("it", s, str),
    "fold_final": lambda s: op.fold_final("it", s, list, lambda a, _: a),
    "join": lambda s: op.join("it", s, s),
    "max_final": lambda s: op.max_final("it", s),
    "min_final": lambda s: op.min_final("it", s),
    "reduce_final": lambda s: op.reduce_final("it", s, max),
    "stateful": lambda s: op.stateful("it", s, lambda _: None),
    "stateful_batch": lambda s: op.stateful_batch("it", s, lambda _: None),
    "stateful_flat_map": lambda s: op.stateful_flat_map("it", s, lambda a, _: (a, [])),
    "stateful_map": lambda s: op.stateful_map("it", s, lambda a, _: (a, 0)),
    "collect_window": lambda s: win.collect_window("it", s, **WINDOW),
    "count_window": lambda s: win.count_window("it", s, key=str, **WINDOW),
    "fold_window": lambda s: win.fold_window(
        "it", s, builder=list, folder=lambda a, _: a, merger=lambda a, _: a, **WINDOW
    ),
    "join_window": lambda s: win.join_window("it", WINDOW["clock"], WINDOW["windower"], s, s),
    "max_window": lambda s: win.max_window("it", s, **WINDOW),
    "min_window": lambda s: win.min_window("it", s, **WINDOW),
    "reduce_window": lambda s: win.reduce_window("it", s, reducer=max, **WINDOW),
    "window": lambda s: win.window("it", s, builder=lambda _: None, **WINDOW),
}


def operators_of(*modules: ModuleType) -> dict[str, Any]:
    """List what ``@operator`` made in these modules."""
    return {
        name: member
        for module in modules
        for name, member in vars(module).items()
        if hasattr(member, "_op_cls")
    }


def steps_of(*steps: Operator) -> list[Operator]:
    """List steps with all steps inside them."""
    return [one for step in steps for one in (step, *steps_of(*step.substeps))]


def names(steps: list[Operator]) -> list[str]:
    return [type(step).__name__ for step in steps]


def flow_with(build: Callable[[KeyedStream], Any]) -> Dataflow:
    flow = Dataflow("small")
    build(op.input("inp", flow, TestingSource([("a", 1)])))
    return flow


@pytest.fixture
def flow() -> Dataflow:
    return flow_with(
        lambda items: op.output("out", STATEFUL["stateful_map"](items), TestingSink([]))
    )


def test_bytewax_is_the_version_that_these_tests_speak_of() -> None:
    assert version("bytewax") == "0.21.1"


# --- Which operators there are -------------------------------------------------------------------


def test_the_core_operators_are_as_known() -> None:
    found = operators_of(op, win)
    assert {name for name, it in found.items() if getattr(it._op_cls, "core", 0)} == PYTHON_CORE


def test_every_operator_is_core_or_known_as_stateful_or_stateless() -> None:
    assert set(operators_of(op, win)) == PYTHON_CORE | set(STATEFUL) | STATELESS


@pytest.mark.parametrize("name", STATEFUL)
def test_a_stateful_operator_is_built_on_one_core_stateful_batch(name: str) -> None:
    flow = flow_with(STATEFUL[name])
    assert names(steps_of(*flow.substeps)).count("stateful_batch") == 1


def test_the_engine_also_knows_the_core_operator_noop() -> None:
    assert run_well("core", name="_noop") == [0, 1, 2]


def test_the_engine_refuses_a_core_operator_that_it_does_not_know() -> None:
    outcome = run("core", name="mystery")
    assert outcome.causes == ["TypeError"]
    assert 'Unknown core operator "mystery"' in outcome.message


# --- The tree of steps ---------------------------------------------------------------------------


def test_substeps_are_a_tree_of_frozen_dataclasses(flow: Dataflow) -> None:
    assert isinstance(flow.substeps, list)
    for step in steps_of(*flow.substeps):
        assert isinstance(step, Operator)
        assert isinstance(step.substeps, list)
        with pytest.raises(dataclasses.FrozenInstanceError):
            step.step_name = "other"


def test_step_ids_are_paths_of_step_names(flow: Dataflow) -> None:
    assert [step.step_id for step in steps_of(*flow.substeps)] == [
        "small.inp",
        "small.it",
        "small.it.stateful_flat_map",
        "small.it.stateful_flat_map.stateful",
        "small.it.stateful_flat_map.stateful.stateful_batch",
        "small.out",
    ]


def test_a_core_stateful_batch_step_holds_builder_up_and_down(flow: Dataflow) -> None:
    [step] = [one for one in steps_of(*flow.substeps) if type(one).__name__ == "stateful_batch"]
    assert step.core
    assert (step.ups_names, step.dwn_names) == (["up"], ["down"])
    assert step.up.stream_id == "small.inp.down"
    assert step.down.stream_id == f"{step.step_id}.down"
    assert isinstance(step.builder(None), StatefulBatchLogic)


def test_input_and_output_steps_hold_source_and_sink(flow: Dataflow) -> None:
    first, *_, last = flow.substeps
    assert isinstance(first.source, TestingSource)
    assert isinstance(last.sink, TestingSink)


# --- Signatures ----------------------------------------------------------------------------------


def test_an_annotation_that_only_a_type_checker_sees_is_refused() -> None:
    namespace: dict[str, Any] = {}
    exec("def made(step_id: str, up: 'OnlyForTypeCheckers') -> None: ...", namespace)
    with pytest.raises(NameError, match="OnlyForTypeCheckers"):
        operator(namespace["made"])


@pytest.mark.parametrize(
    ("method", "parameters"),
    {
        "on_batch": ["self", "values"],
        "on_notify": ["self"],
        "on_eof": ["self"],
        "notify_at": ["self"],
        "snapshot": ["self"],
    }.items(),
)
def test_the_methods_of_a_logic_are_as_known(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(StatefulBatchLogic, method)).parameters) == parameters


def test_a_logic_has_no_other_methods_and_on_eof_does_nothing_by_default() -> None:
    public = {name for name in vars(StatefulBatchLogic) if not name.startswith("_")}
    constants = {"RETAIN", "DISCARD"}
    assert public - constants == {"on_batch", "on_notify", "on_eof", "notify_at", "snapshot"}
    assert StatefulBatchLogic.on_eof(object()) == ((), False)
