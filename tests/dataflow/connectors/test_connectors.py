"""Wrapped sources and sinks behave as the user's own; only their snapshots are bytes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import AbortExecution, DynamicSource, FixedPartitionedSource
from bytewax.outputs import FixedPartitionedSink
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

from bytewax_redis_state import shard_stateful_steps
from bytewax_redis_state.dataflow.connectors.sink import EncodedSink
from bytewax_redis_state.dataflow.connectors.source import EncodedSource
from tests.dataflow.recording import CountingSink, NumbersSource, RecordingCodec


def fresh_recovery(folder: Path) -> RecoveryConfig:
    init_db_dir(folder, 1)
    return RecoveryConfig(str(folder))


def copied(source: Any, sink: Any) -> Dataflow:
    flow = Dataflow("flow")
    items = op.input("in", flow, source)
    op.output("out", op.key_on("key", items, lambda item: "ab"[item % 2]), sink)
    return shard_stateful_steps(flow)


def test_all_items_pass_and_each_part_is_closed_once() -> None:
    source, sink = NumbersSource(10), CountingSink()
    run_main(copied(source, sink))
    assert sorted(value for _part, value in sink.written) == list(range(10))
    assert {(part, value % 2) for part, value in sink.written} == {("a", 0), ("b", 1)}
    assert (source.closed, sink.closed) == (1, 2)


def test_the_end_of_a_source_ends_its_epoch_with_one_snapshot(tmp_path: Path) -> None:
    source, sink = NumbersSource(10), CountingSink()
    run_main(
        copied(source, sink),
        epoch_interval=timedelta(hours=1),
        recovery_config=fresh_recovery(tmp_path),
    )
    assert (source.snapshots, sink.snapshots) == (1, 2)


def test_a_source_and_a_sink_resume_from_their_own_states(tmp_path: Path) -> None:
    recovery = fresh_recovery(tmp_path)
    run_main(copied(NumbersSource(4), CountingSink()), recovery_config=recovery)
    source, sink = NumbersSource(6), CountingSink()
    run_main(copied(source, sink), recovery_config=recovery)
    assert source.resumed == [("flow.in", "numbers", 4)]
    assert sorted(sink.resumed) == [("flow.out", "a", 2), ("flow.out", "b", 2)]
    assert sorted(value for _part, value in sink.written) == [4, 5]


def test_an_abort_ends_the_run_without_a_snapshot(tmp_path: Path) -> None:
    source = NumbersSource(10, AbortExecution)
    recovery = fresh_recovery(tmp_path)
    run_main(
        copied(source, CountingSink()),
        epoch_interval=timedelta(hours=1),
        recovery_config=recovery,
    )
    assert (source.snapshots, source.closed) == (0, 1)
    again = NumbersSource(10)
    run_main(copied(again, CountingSink()), recovery_config=recovery)
    assert again.resumed == [("flow.in", "numbers", None)]


def test_another_error_of_a_source_comes_through() -> None:
    with pytest.raises(RuntimeError, match="next_batch") as raised:
        run_main(copied(NumbersSource(1, KeyError), CountingSink()))
    assert isinstance(raised.value.__cause__, KeyError)


def test_no_state_is_none_and_a_state_of_none_is_handed_on() -> None:
    codec = RecordingCodec()
    source = NumbersSource(1, tells_where=False)
    wrapped = EncodedSource(source, codec)
    first = wrapped.build_part("step", "numbers", None)
    snapshot = first.snapshot()
    assert isinstance(snapshot, bytes)
    wrapped.build_part("step", "numbers", snapshot)
    assert source.resumed == [("step", "numbers", None)] * 2
    assert codec.encoded == [("numbers", None)]


def test_partitions_are_listed_live() -> None:
    source = NumbersSource(1)
    wrapped = EncodedSource(source, RecordingCodec())
    assert wrapped.list_parts() == ["numbers"]
    source.parts.append("more")
    assert wrapped.list_parts() == ["numbers", "more"]


def test_a_wrapper_is_of_the_class_that_the_engine_tries_first() -> None:
    class Both(NumbersSource, DynamicSource[Any]):
        def build(self, *_where: Any) -> Any:
            raise NotImplementedError

    flow = Dataflow("flow")
    op.output("out", op.input("in", flow, Both(3)), TestingSink([]))
    source: Any = shard_stateful_steps(flow).substeps[0]
    assert isinstance(source.source, EncodedSource)
    assert isinstance(source.source, FixedPartitionedSource)
    assert not isinstance(source.source, DynamicSource)
    assert isinstance(EncodedSink(CountingSink(), RecordingCodec()), FixedPartitionedSink)


def test_what_runs_for_every_batch_is_the_users_own() -> None:
    source, sink = NumbersSource(1), CountingSink()
    part = EncodedSource(source, RecordingCodec()).build_part("step", "numbers", None)
    assert part.next_batch.__self__ is part._part
    assert part.next_awake.__self__ is part._part
    written = EncodedSink(sink, RecordingCodec()).build_part("step", "a", None)
    assert written.write_batch.__self__ is written._part
    assert EncodedSink(sink, RecordingCodec()).part_fn("abc") == 0


@pytest.mark.parametrize("kind", ["source", "sink"])
def test_a_part_of_another_class_is_refused_as_in_stock(kind: str) -> None:
    class Odd:
        def build_part(self, *_what: Any) -> Any:
            return object()

        def part_fn(self, _key: str) -> int:
            return 0

    odd: Any = Odd()
    wrapped = (EncodedSource if kind == "source" else EncodedSink)(odd, RecordingCodec())
    with pytest.raises(TypeError, match=f"stateful {kind} partition must subclass"):
        wrapped.build_part("step", "part", None)
