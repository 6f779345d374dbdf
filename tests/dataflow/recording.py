"""Sources and sinks that note how they are used, and a codec that shows what it got."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bytewax.inputs import (
    DynamicSource,
    FixedPartitionedSource,
    StatefulSourcePartition,
    StatelessSourcePartition,
)
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from bytewax_redis_state.codec import Codec, StateCodec


class RecordingCodec(StateCodec):
    """A step's codec that tells what was encoded when."""

    def __init__(self) -> None:
        codec = Codec()
        names = {"namespace": "tests", "flow_id": "flow", "step": "step"}
        super().__init__(codec, codec._packing, **names)
        self.encoded: list[tuple[str, Any]] = []

    def encode(self, state_key: str, value: Any, deadline: int | None = None) -> bytes:
        self.encoded.append((state_key, value))
        return super().encode(state_key, value, deadline)


class NumbersPart(StatefulSourcePartition[int, Any]):
    def __init__(self, source: NumbersSource, at: int) -> None:
        self.source = source
        self.at = at

    def next_batch(self) -> Iterable[int]:
        if self.at >= self.source.count:
            raise self.source.end
        self.at += 1
        return [self.at - 1]

    def snapshot(self) -> int | None:
        self.source.snapshots += 1
        return self.at if self.source.tells_where else None

    def close(self) -> None:
        self.source.closed += 1


class NumbersSource(FixedPartitionedSource[int, Any]):
    """Counts up, then raises ``end``."""

    def __init__(
        self, count: int, end: type[Exception] = StopIteration, *, tells_where: bool = True
    ) -> None:
        self.count = count
        self.end = end
        self.tells_where = tells_where
        self.listed = self.snapshots = self.closed = 0
        self.resumed: list[Any] = []
        self.parts = ["numbers"]

    def list_parts(self) -> list[str]:
        self.listed += 1
        return list(self.parts)

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> NumbersPart:
        self.resumed.append((step_id, for_part, resume_state))
        return NumbersPart(self, resume_state or 0)


class CountingPart(StatefulSinkPartition[Any, int]):
    def __init__(self, sink: CountingSink, part_key: str, count: int) -> None:
        self.sink = sink
        self.part_key = part_key
        self.count = count

    def write_batch(self, values: list[Any]) -> None:
        self.count += len(values)
        self.sink.written.extend((self.part_key, value) for value in values)

    def snapshot(self) -> int:
        self.sink.snapshots += 1
        return self.count

    def close(self) -> None:
        self.sink.closed += 1


class CountingSink(FixedPartitionedSink[Any, int]):
    """Two partitions; keys that start with ``a`` go to the first."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.resumed: list[Any] = []
        self.snapshots = self.closed = 0

    def list_parts(self) -> list[str]:
        return ["a", "b"]

    def part_fn(self, item_key: str) -> int:
        return 0 if item_key.startswith("a") else 1

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> CountingPart:
        self.resumed.append((step_id, for_part, resume_state))
        return CountingPart(self, for_part, resume_state or 0)


class _StatelessPart(StatelessSourcePartition[Any]):
    def __init__(self, items: list[Any], size: int) -> None:
        self.batches = [items[at : at + size] for at in range(0, len(items), size)]

    def next_batch(self) -> Iterable[Any]:
        if not self.batches:
            raise StopIteration
        return self.batches.pop(0)


class StatelessSource(DynamicSource[Any]):
    """The same items on every worker."""

    def __init__(self, items: Iterable[Any], size: int = 1) -> None:
        self.items = list(items)
        self.size = size

    def build(self, _step_id: str, _index: int, _count: int) -> _StatelessPart:
        return _StatelessPart(self.items, self.size)


def call_log(log: list[Any], name: str, answer: Any = None) -> Callable[..., Any]:
    """Make a function that notes its arguments."""

    def call(*args: Any) -> Any:
        log.append((name, *args))
        return answer

    return call
