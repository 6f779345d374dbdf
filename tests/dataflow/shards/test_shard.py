"""What a shard writes down per epoch, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bytewax.operators import (
    StatefulBatchLogic,
    StatefulLogic,
    _FoldFinalLogic,
    _JoinLogic,
    _JoinState,
    _StatefulFlatMapLogic,
    _StatefulLogic,
)

from bytewax_redis_state.dataflow.shards.logic_shard import ShardLogic
from bytewax_redis_state.dataflow.shards.shard_builder import ShardBuilder
from bytewax_redis_state.dataflow.shards.shard_names import shard_name, worker_of
from bytewax_redis_state.dataflow.shards.snapshot_requests import SnapshotRequests
from bytewax_redis_state.errors import DecodeError, EncodeError
from tests.dataflow.deltas import changes_of
from tests.dataflow.recording import RecordingCodec

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)


class Summing(StatefulBatchLogic[int, int, int]):
    """Discarded at a sum of 0; notified in 2020 where its sum is odd."""

    def __init__(self, state: int | None) -> None:
        self.total = state or 0

    def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
        self.total += sum(values)
        return [self.total], self.total == 0

    def on_notify(self) -> tuple[Iterable[int], bool]:
        self.total += 1
        return [-self.total], False

    def notify_at(self) -> datetime | None:
        return PAST if self.total % 2 else None

    def snapshot(self) -> int:
        return self.total


class Ending(Summing):
    """Puts its sum out at the end, and stays."""

    def on_eof(self) -> tuple[Iterable[int], bool]:
        return [self.total], False


class Held(StatefulLogic[int, int, int]):
    """Behind Bytewax's own shim."""

    def on_item(self, value: int) -> tuple[Iterable[int], bool]:
        return [value], False

    def snapshot(self) -> int:
        return 1


class HeldToTheEnd(Held):
    def on_eof(self) -> tuple[Iterable[int], bool]:
        return [], False


def shimmed(logic: Callable[[], StatefulLogic[Any, Any, Any]]) -> Callable[[Any], Any]:
    return lambda _state: _StatefulLogic(logic(), lambda _again: logic())


def shard_of(builder: Callable[[Any], Any]) -> ShardLogic:
    return ShardLogic("flow.sum", builder, RecordingCodec())


def changes(shard: ShardLogic) -> dict[str, Any]:
    """Take a snapshot as the engine does, and decode it."""
    codec = RecordingCodec()
    return {
        key: None if data is None else codec.decode(key, data)
        for key, data in changes_of(shard.snapshot()).items()
    }


def states(**values: int) -> dict[str, bytes]:
    return {key: RecordingCodec().encode(key, value) for key, value in values.items()}


def test_a_delta_holds_what_changed_since_the_last_one() -> None:
    shard = shard_of(Summing)
    shard.on_batch([{"a": [1, 2], "b": [4]}])
    assert changes(shard) == {"a": 3, "b": 4}
    shard.on_batch([{"b": [1]}])
    shard.on_batch([{"c": [6]}, {"c": [2], "b": [1]}])
    assert changes(shard) == {"b": 6, "c": 8}
    assert changes(shard) == {}


def test_a_discarded_key_is_a_deletion_also_if_it_was_never_written() -> None:
    shard = shard_of(Summing)
    shard.on_batch([{"a": [1], "b": [0]}])
    assert changes(shard) == {"a": 1, "b": None}
    shard.on_batch([{"a": [-1]}])
    assert changes(shard) == {"a": None}
    shard.on_batch([{"a": [5]}])
    assert changes(shard) == {"a": 5}


def test_a_key_that_comes_back_within_an_epoch_is_no_deletion() -> None:
    shard = shard_of(Summing)
    shard.on_batch([{"a": [0]}])
    shard.on_batch([{"a": [7]}])
    assert changes(shard) == {"a": 7}


def test_a_key_gets_all_its_values_at_once_and_in_order() -> None:
    seen: list[list[int]] = []

    class Seeing(Summing):
        def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
            seen.append(values)
            return values, False

    items, is_complete = shard_of(Seeing).on_batch([{"a": [1, 2]}, {"b": [9]}, {"a": [3]}])
    assert seen == [[1, 2, 3], [9]]
    assert list(items) == [[("a", 1), ("a", 2), ("a", 3), ("b", 9)]]
    assert is_complete is False


def test_what_was_put_out_is_not_changed_by_the_logic_afterwards() -> None:
    kept: list[int] = []

    class Reusing(Summing):
        def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
            kept[:] = values
            return kept, False

    shard = shard_of(Reusing)
    first, _ = shard.on_batch([{"a": [1]}])
    shard.on_batch([{"a": [2]}])
    assert list(first) == [[("a", 1)]]


def test_values_are_encoded_when_the_epoch_closes() -> None:
    class Sharing(Summing):
        def __init__(self, state: Any) -> None:
            self.held: list[int] = []

        def on_batch(self, values: list[int]) -> tuple[Iterable[int], bool]:
            self.held += values
            return [], False

        def notify_at(self) -> None:
            return None

        def snapshot(self) -> Any:
            return self.held

    shard = shard_of(Sharing)
    shard.on_batch([{"a": [1]}])
    delta = shard.snapshot()
    shard.on_batch([{"a": [2]}])
    assert RecordingCodec().decode("a", changes_of(delta)["a"] or b"") == [1]


def test_a_due_notification_is_part_of_the_delta() -> None:
    shard = shard_of(Summing)
    shard.on_batch([{"a": [1], "b": [2]}])
    shard.snapshot()
    assert shard.notify_at() == PAST
    assert shard.on_notify() == (([("a", -2)],), False)
    assert shard.notify_at() is None
    assert changes(shard) == {"a": 2}


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        (Summing, {}),
        (Ending, {"a": 4}),
        (shimmed(Held), {}),
        (shimmed(HeldToTheEnd), {"a": 1}),
    ],
)
def test_the_end_changes_only_keys_that_wait_for_it(builder: Any, expected: Any) -> None:
    shard = shard_of(builder)
    shard.on_batch([{"a": [4]}])
    shard.snapshot()
    shard.on_eof()
    shard.notify_at()
    assert changes(shard) == expected


def test_restored_state_is_unchanged_and_its_timers_run() -> None:
    build = ShardBuilder("flow.sum", Summing, RecordingCodec())
    shard = build(build.handover.put(states(a=5, b=4)))
    assert isinstance(shard, ShardLogic)
    assert changes(shard) == {}
    assert shard.notify_at() == PAST
    assert shard.on_notify() == (([("a", -6)],), False)
    assert shard.on_batch([{"b": [1]}]) == (([("b", 5)],), False)


BYTEWAX_OWN: dict[str, tuple[Callable[[Any], Any], Any, list[Any], list[Any]]] = {
    # Builder, state; what the end of input puts out, what an item puts out.
    "stateful_map": (
        lambda state: _StatefulFlatMapLogic("flow.sum", lambda s, v: (s + v, [s]), state),
        5,
        [],
        [5],
    ),
    "fold_final": (
        lambda state: _FoldFinalLogic("flow.sum", lambda acc, value: acc + value, state),
        5,
        [5],
        [],
    ),
    "join final": (
        lambda state: _JoinLogic("last", "final", state),
        _JoinState([[1], []]),
        [(1, None)],
        [],
    ),
    "join running": (
        lambda state: _JoinLogic("last", "running", state),
        _JoinState([[1], []]),
        [],
        [(3, None)],
    ),
}


@pytest.mark.parametrize("case", BYTEWAX_OWN.values(), ids=BYTEWAX_OWN.keys())
def test_restored_keys_of_every_operator_see_items_and_the_end(case: Any) -> None:
    builder, state, at_end, for_item = case
    codec = RecordingCodec()
    restored = {key: codec.encode(key, state) for key in "abc"}

    def build() -> ShardLogic:
        make = ShardBuilder("flow.sum", lambda s: _StatefulLogic(builder(s), builder), codec)
        shard = make(make.handover.put(restored))
        assert isinstance(shard, ShardLogic)
        assert shard.notify_at() is None
        return shard

    parts, _ = build().on_eof()
    assert sorted(item for part in parts for item in part) == sorted(
        (key, value) for key in "abc" for value in at_end
    )
    value = (0, 3) if isinstance(state, _JoinState) else 3
    parts, _ = build().on_batch([{"c": [value]}])
    assert [item for part in parts for item in part] == [("c", value) for value in for_item]


def test_a_state_of_none_is_handed_to_the_builder_and_nothing_is_not() -> None:
    built: list[Any] = []

    def builder(state: Any) -> Summing:
        built.append(state)
        return Summing(0)

    build = ShardBuilder("flow.sum", builder, RecordingCodec())
    build(build.handover.put({"a": RecordingCodec().encode("a", None)}))
    assert built == [None]
    ShardBuilder("flow.sum", builder, RecordingCodec())(None)
    assert built == [None]


def test_restored_states_are_handed_over_once_and_in_their_own_process_only() -> None:
    build = ShardBuilder("flow.sum", Summing, RecordingCodec())
    tickets = [build.handover.put(states(a=2)), build.handover.put(states(a=20))]
    shards = [build(ticket) for ticket in tickets]
    assert [shard.on_batch([{"a": [0]}]) for shard in shards] == [
        (([("a", 2)],), False),
        (([("a", 20)],), False),
    ]
    for ticket in (tickets[0], ShardBuilder("", Summing, RecordingCodec()).handover.put({})):
        with pytest.raises(DecodeError, match="no restored state waits in this process"):
            build(ticket)


def test_shards_go_to_their_workers() -> None:
    for shard, workers in ((0, 1), (5, 3), (63, 8)):
        assert worker_of(shard_name(shard, workers), workers) == shard % workers


def test_an_encode_error_passes_as_it_is() -> None:
    class Refused(Summing):
        def snapshot(self) -> Any:
            return lambda: None

    shard = shard_of(Refused)
    shard.on_batch([{"a": [1]}])
    with pytest.raises(EncodeError, match="'a'"):
        shard.snapshot()


def test_a_shard_that_may_get_requests_asks_for_its_next_look_once_until_it_has_come() -> None:
    shard = ShardLogic("flow.sum", Summing, RecordingCodec(), requests=SnapshotRequests())
    assert shard.notify_at() is not None
    shard.on_batch([{"a": [2]}])
    assert shard.notify_at() is None, "the engine keeps the time that it has"
    shard.on_notify()
    assert shard.notify_at() is not None


def test_a_timer_in_the_far_future_keeps_the_others() -> None:
    times = {1: PAST + timedelta(days=200_000), 2: PAST + timedelta(days=100_000)}

    class Waiting(Summing):
        def notify_at(self) -> datetime | None:
            return times.get(self.total)

    shard = shard_of(Waiting)
    shard.on_batch([{"a": [1], "b": [2]}])
    assert shard.notify_at() == times[2]
    shard.on_batch([{"b": [-2]}])
    assert shard.notify_at() == times[1]
