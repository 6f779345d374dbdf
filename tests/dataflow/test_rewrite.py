"""A rewritten flow is a new one, complete, and waits for all of its outputs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax import visualize
from bytewax.dataflow import Dataflow, Operator, Stream
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow.shards.routing import pair_router, router, unroute
from bytewax_redis_state.dataflow.shards.shard_names import shard_name
from bytewax_redis_state.dataflow.stateless_ends import stateless_ends
from bytewax_redis_state.dataflow.steps import state_steps
from tests.dataflow.shards.test_return_checks import ITEMS

from .operator_catalog import catalog, twice
from .recording import CountingSink, NumbersSource, RecordingCodec, StatelessSource, call_log


def tree(steps: Iterable[Operator]) -> list[Any]:
    return [(id(step), vars(step).copy(), tree(step.substeps)) for step in steps]


def ids(steps: Iterable[Operator]) -> list[str]:
    return [step_id for step in steps for step_id in (step.step_id, *ids(step.substeps))]


def test_the_given_flow_stays_as_it_is() -> None:
    flow = catalog([])
    before, substeps = tree(flow.substeps), flow.substeps
    rewritten = shard_stateful_steps(flow)
    assert tree(flow.substeps) == before
    assert flow.substeps is substeps
    assert rewritten.flow_id == flow.flow_id
    op.input("more", rewritten, TestingSource([]))
    assert tree(flow.substeps) == before


def test_a_flow_can_be_rewritten_and_run_again_and_again() -> None:
    record: list[Any] = []
    flow = Dataflow("flow")
    items = op.input("in", flow, TestingSource([("a", 1), ("a", 2)]))
    op.output("out", op.count_final("count", items, lambda item: item[0]), TestingSink(record))
    for _ in range(2):
        run_main(shard_stateful_steps(flow))
    assert record == [("a", 2)] * 2


def test_every_step_has_an_id_of_its_own() -> None:
    assert max(Counter(ids(shard_stateful_steps(catalog([])).substeps)).values()) == 1


def test_the_engine_finds_each_step_under_its_engine_id() -> None:
    flow = catalog([])
    found = ids(shard_stateful_steps(flow).substeps)
    assert {step.engine_id for step in state_steps(flow)} <= set(found)


def test_a_rewritten_flow_can_be_drawn() -> None:
    flow = shard_stateful_steps(catalog([]))
    assert "join_window" in visualize.to_json(flow)
    assert visualize.to_mermaid(flow)
    assert visualize.to_plantuml(flow, recursive=True)


def test_each_step_gets_a_codec_bound_to_its_name() -> None:
    bound: list[Any] = []

    class Binding:
        def bind(self, **names: str) -> RecordingCodec:
            bound.append(tuple(names.values()))
            return RecordingCodec()

    flow = Dataflow("flow")
    pairs = op.key_on("key", op.input("in", flow, NumbersSource(1)), str)
    op.output("out", twice("twice", pairs), CountingSink())
    codec: Any = Binding()
    shard_stateful_steps(flow, codec=codec, namespace="ns", names={"flow.twice.totals": "old"})
    assert bound == [
        ("ns", "flow", "in"),
        ("ns", "flow", "old"),
        ("ns", "flow", "twice.inner"),
        ("ns", "flow", "out"),
    ]


def test_a_flow_without_state_comes_back_as_it_is() -> None:
    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, StatelessSource([1])), TestingSink([]))
    assert shard_stateful_steps(flow) is flow


def test_a_batch_goes_out_once_per_shard_and_comes_back_whole() -> None:
    batch = [(f"k{number % 50}", number) for number in range(1000)]
    routed = list(router(8, 3)(batch))
    assert {name for name, _groups in routed} == {shard_name(shard, 3) for shard in range(8)}
    assert len(routed) == 8
    for key in {key for key, _value in batch}:
        (values,) = [groups[key] for _name, groups in routed if key in groups]
        assert values == [value for of, value in batch if of == key]
    assert list(unroute([("s0", [("a", 1), ("b", 2)]), ("s1", [("c", 3)])])) == [
        ("a", 1),
        ("b", 2),
        ("c", 3),
    ]
    assert list(router(8, 3)([])) == []


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
def test_shards_that_take_items_as_they_are_get_the_same_ones(item: Any) -> None:
    batch = [("a", 0), item, ("b", 2), ("a", 3)]
    grouped, paired = (list(route(3, 1)(batch)) for route in (router, pair_router))
    if grouped == [item]:
        assert paired == [item], "left to the engine, which refuses it"
        return
    for (name, groups), (pair_name, pairs) in zip(sorted(grouped), sorted(paired), strict=True):
        assert name == pair_name
        assert groups == {key: [v for k, v in pairs if k == key] for key, _value in pairs}
        assert {type(pair) for pair in pairs} == {tuple}
        assert {type(key) for key, _value in pairs} == {str}


def test_streams_that_end_without_state_are_watched_once() -> None:
    flow = Dataflow("flow")
    items = op.input("in", flow, TestingSource([]))
    plain = op.map("plain", items, lambda item: item)
    op.output("out1", plain, TestingSink([]))
    op.output("out2", plain, TestingSink([]))
    op.output("kept", op.map("keyed", items, lambda item: ("a", item)), CountingSink())
    op.inspect("seen", items)
    op.map("on", op.inspect("passing", plain), lambda item: item)
    known = op.inspect("known", op.map("more", items, lambda item: ("a", item)))
    op.count_final("count", known, lambda item: item[0])
    assert stateless_ends(flow) == {
        "flow.out2": "flow.plain.flat_map_batch.down",
        "flow.passing.inspect_debug": "flow.passing.inspect_debug.down",
        "flow.seen.inspect_debug": "flow.seen.inspect_debug.down",
    }


def run_with_recovery(flow: Dataflow, workers: int, folder: Path, epoch_ms: float) -> None:
    init_db_dir(folder, 1)
    settings: dict[str, Any] = {
        "epoch_interval": timedelta(milliseconds=epoch_ms),
        "recovery_config": RecoveryConfig(str(folder)),
    }
    flow = shard_stateful_steps(flow, workers=workers)
    if workers == 1:
        run_main(flow, **settings)
    else:
        cluster_main(flow, [], 0, worker_count_per_proc=workers, **settings)


def with_a_little_state() -> Dataflow:
    flow = Dataflow("flow")
    few = op.input("few", flow, TestingSource([("a", 1)]))
    op.output("counted", op.count_final("count", few, lambda item: item[0]), TestingSink([]))
    return flow


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("epoch_ms", [0, 1, 10_000])
def test_a_run_does_not_end_before_its_stateless_streams(
    tmp_path: Path, workers: int, epoch_ms: float
) -> None:
    record: list[Any] = []
    flow = with_a_little_state()
    many = op.input("many", flow, StatelessSource(range(100)))
    op.output("out", op.map("same", many, lambda item: item), TestingSink(record))
    run_with_recovery(flow, workers, tmp_path, epoch_ms)
    assert sorted(record) == sorted(list(range(100)) * workers)


def relayed(stream: Stream[Any], hops: int) -> Stream[Any]:
    def slowly(batch: list[Any]) -> list[Any]:
        time.sleep(0.002)
        return batch

    for hop in range(hops):
        stream = op.redistribute(f"spread{hop}", stream)
        stream = op.flat_map_batch(f"slow{hop}", stream, slowly)
    return stream


@pytest.mark.parametrize("ending", ["output", "inspect"])
def test_a_run_does_not_end_while_items_go_from_worker_to_worker(
    tmp_path: Path, ending: str
) -> None:
    record: list[Any] = []
    flow = Dataflow("flow")
    items = op.input("in", flow, TestingSource(range(40), batch_size=40))
    last = relayed(items, 40)
    if ending == "output":
        op.output("out", last, TestingSink(record))
    else:
        op.inspect("out", last, call_log(record, "seen"))
    run_with_recovery(flow, 2, tmp_path, 10_000)
    assert len(record) == 40
