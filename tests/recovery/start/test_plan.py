"""Plans: what fits, what is new, and what is refused before a key is touched."""

from __future__ import annotations

import re

import pytest

from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.dataflow.steps import StateStep
from bytewax_redis_state.errors import ConfigError, FormatError, StepMissingError
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, StepEntry
from bytewax_redis_state.recovery.start.plan import plan_start

SUM = StateStep("sum", "flow.sum.core", "flow.sum.core.shards", "keyed")
MAX = StateStep("max", "flow.max.core", "flow.max.core.shards", "keyed")
SOURCE = StateStep("in", "flow.in", "flow.in", "source")


def known(*steps: StateStep, parts=None, **changes) -> Manifest:
    entries = {
        step.name: StepEntry(step.step_id, step.kind, step.operator, step.operator_id)
        for step in steps
    }
    return Manifest("life", steps=entries, parts=parts or {}, **changes)


def plan(manifest, steps, parts=None, **settings):
    return plan_start(manifest, steps, parts or {}, RecoverySettings(**settings))


def test_a_new_flow_has_new_steps_only():
    made = plan(known(), [SOURCE, SUM], {"in": ["a", "b"]})
    assert made.new == ("in", "sum")
    assert made.parts == {"in": ("a", "b")}
    assert made.names == {"flow.in": "in", "flow.sum.core": "sum"}
    assert (made.dropped, made.gone) == ((), ())


def test_a_known_flow_has_none():
    made = plan(known(SUM, SOURCE), [SOURCE, SUM])
    assert (made.new, made.dropped) == ((), ())


def test_a_step_that_vanished_is_named_with_both_ways_out():
    """Rule 17: our error with the option that drops or renames it."""
    with pytest.raises(StepMissingError) as caught:
        plan(known(SUM), [MAX])
    assert "'sum'" in caught.value.message
    assert "max" in caught.value.message
    assert "--drop-step sum" in caught.value.hint
    assert "--rename-step sum=NEW" in caught.value.hint


@pytest.mark.parametrize("name", ["sum", "flow.sum", "flow.sum.core"])
def test_a_step_is_dropped_by_any_of_its_names(name):
    made = plan(known(SUM), [MAX], drop_steps=frozenset({name}))
    assert (made.dropped, made.new, set(made.steps)) == (("sum",), ("max",), {"max"})


def test_a_drop_may_stay_in_the_unit_file():
    made = plan(known(MAX), [MAX], drop_steps=frozenset({"sum"}))
    assert made.dropped == ()


@pytest.mark.parametrize("name", ["sum", "flow.sum", "flow.sum.core"])
def test_a_step_that_is_there_is_not_dropped(name):
    with pytest.raises(ConfigError, match="the flow still has this step"):
        plan(known(SUM), [SUM], drop_steps=frozenset({name}))


@pytest.mark.parametrize("old", ["sum", "flow.sum", "flow.sum.core"])
@pytest.mark.parametrize("new", ["max", "flow.max", "flow.max.core"])
def test_a_renamed_step_keeps_its_short_name(old, new):
    made = plan(known(SUM), [MAX], rename_steps={old: new})
    assert made.names == {"flow.max.core": "sum"}
    assert (made.new, made.dropped) == ((), ())


def test_a_rename_may_stay_in_the_unit_file():
    first = plan(known(SUM), [MAX], rename_steps={"sum": "max"})
    manifest = Manifest("life", steps=first.steps)
    assert plan(manifest, [MAX], rename_steps={"sum": "max"}).steps == first.steps
    assert plan(manifest, [MAX]).steps == first.steps


def test_a_new_step_with_a_name_that_is_taken_gets_another():
    """The name once given stays: the new step must not read the renamed one's state."""
    renamed = Manifest("life", steps={"sum": StepEntry("flow.max.core", "keyed")})
    made = plan(renamed, [MAX, SUM])
    assert made.names == {"flow.max.core": "sum", "flow.sum.core": "sum~2"}
    assert made.new == ("sum~2",)
    again = plan(Manifest("life", steps=made.steps), [MAX, SUM])
    assert (again.names, again.new) == (made.names, ())


def test_two_steps_swap_their_names():
    made = plan(known(SUM, MAX), [SUM, MAX], rename_steps={"sum": "max", "max": "sum"})
    assert made.names == {"flow.sum.core": "max", "flow.max.core": "sum"}


def count(core: str, operator: str = "count_final", place: str = "flow.sum") -> StateStep:
    step_id = f"{place}.{core}"
    return StateStep("sum", step_id, f"{step_id}.shards", "keyed", operator, place)


def test_a_step_whose_inner_id_changed_is_known_by_its_operator():
    """Bytewax may change what an operator is made of."""
    made = plan(known(count("fold.core")), [count("other_core")])
    assert (made.names, made.new) == ({"flow.sum.other_core": "sum"}, ())
    assert made.steps["sum"] == StepEntry("flow.sum.other_core", "keyed", "count_final", "flow.sum")


@pytest.mark.parametrize(
    "other", [count("core", "fold_final"), count("core", place="flow.sum.visits")]
)
def test_another_operator_of_that_name_is_refused_with_options_that_work(other):
    was = known(count("core"))
    with pytest.raises(StepMissingError) as caught:
        plan(was, [other])
    assert "the operator count_final (flow.sum)" in caught.value.message
    assert f"the operator {other.operator} ({other.operator_id})" in caught.value.message
    assert "--drop-step sum" in caught.value.hint
    assert "--rename-step sum=sum" in caught.value.hint
    dropped = plan(was, [other], drop_steps=frozenset({"sum"}))
    assert (dropped.dropped, dropped.new) == (("sum",), ("sum~2",))
    renamed = plan(was, [other], rename_steps={"sum": "sum"})
    assert (renamed.names, renamed.new) == ({other.step_id: "sum"}, ())
    assert plan(Manifest("life", steps=renamed.steps), [other]).new == ()


def test_a_renamed_steps_state_is_not_taken_back_by_the_one_that_had_it():
    made = plan(known(SUM), [SUM, MAX], rename_steps={"sum": "max"})
    assert made.names == {"flow.max.core": "sum", "flow.sum.core": "sum~2"}


def test_a_rename_to_another_kind_of_step_is_refused():
    with pytest.raises(
        ConfigError, match="'sum' is the state of a keyed step, and 'in' is a source"
    ):
        plan(known(SUM), [SOURCE], rename_steps={"sum": "in"})


def test_a_step_that_changed_its_kind_is_another_step():
    source = StateStep("sum", "flow.sum.core", "flow.sum.core", "source")
    with pytest.raises(StepMissingError, match="'sum'"):
        plan(known(SUM), [source])
    made = plan(known(SUM), [source], drop_steps=frozenset({"sum"}))
    assert made.dropped == ("sum",)
    assert made.new == ("sum~2",)


@pytest.mark.parametrize(
    ("renames", "what"),
    [
        ({"sum": "nothing"}, "the flow has no step 'nothing'"),
        ({"nothing": "max"}, "Redis holds no state of a step 'nothing'"),
    ],
)
def test_a_rename_of_what_is_not_there_is_refused(renames, what):
    with pytest.raises(ConfigError, match=what) as caught:
        plan(known(SUM), [MAX], rename_steps=renames)
    assert re.search("steps with state( in Redis)?: ", caught.value.hint)


def test_another_number_of_shards_is_refused():
    with pytest.raises(FormatError, match="has 64 shards, not 32") as caught:
        plan(known(SUM), [SUM], shards=32)
    assert "64" in caught.value.hint


@pytest.mark.parametrize(("step", "hint"), [(1, "upgrade"), (-1, "--namespace")])
def test_another_format_is_refused(step, hint):
    with pytest.raises(FormatError, match=f"format {FORMAT + step}") as caught:
        plan(Manifest("life", format=FORMAT + step), [SUM])
    assert hint in caught.value.hint


def test_partitions_that_are_gone_are_noted():
    made = plan(known(SOURCE, parts={"in": ("a", "b")}), [SOURCE], {"in": ["b", "c"]})
    assert made.gone == (("in", "a"),)
    assert made.parts == {"in": ("b", "c")}
    assert made.drop_partitions == frozenset()


@pytest.mark.parametrize("text", ["in:a", "flow.in:a"])
def test_a_partition_is_dropped_by_step_and_name(text):
    before = known(SOURCE, parts={"in": ("a", "b")})
    made = plan(before, [SOURCE], {"in": ["b"]}, drop_partitions=frozenset({text}))
    assert made.drop_partitions == {("in", "a")}


def test_a_partition_that_is_listed_is_not_dropped():
    before = known(SOURCE, parts={"in": ("a",)})
    made = plan(before, [SOURCE], {"in": ["a"]}, drop_partitions=frozenset({"in:a"}))
    assert made.drop_partitions == frozenset()


@pytest.mark.parametrize("text", ["in", ":a"])
def test_a_partition_without_a_step_is_refused(text):
    with pytest.raises(ConfigError, match="is not STEP:PARTITION"):
        plan(known(SOURCE), [SOURCE], drop_partitions=frozenset({text}))
